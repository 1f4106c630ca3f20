//! The command line: what can be typed, and which file answers it. It asks the daemon over
//! the control socket, as any other program would.

mod attach;
mod books;
mod changes;
mod chart;
pub mod check;
mod client;
mod doctor;
mod events;
mod explain;
mod export;
mod failure;
mod import;
mod instant;
mod money;
mod out;
mod place;
mod sentence;
mod service;
pub mod simulate;
mod status;
mod top;
mod usage;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::{client::Client, out::Style};
pub use self::{
    failure::{Exit, Failure},
    place::CONFIG,
};

/// Meters and enforces the traffic of a hypervisor node's machines.
#[derive(Debug, Parser)]
#[command(name = "meterd", version, disable_help_subcommand = true)]
struct Cli {
    /// The daemon's configuration; the daemon is found through it
    /// [default: /etc/meterd/meterd.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(service::Run),
    /// Say whether the configuration is good, and all that is wrong with it
    Check(service::Check),
    /// Show the machines, or one in detail
    Status(status::Args),
    /// Show what a machine moved, by time
    Usage(usage::Args),
    /// Say why a machine's state is what it is
    Explain(explain::Args),
    /// Show what happened
    Events(events::Args),
    /// Show who moves most just now, again and again
    Top(top::Args),
    /// Show what more volume would cover the forecast, and what it costs
    Offer(explain::Args),
    /// Add volume to a machine's running period
    TopUp(changes::TopUp),
    /// Change a machine's terms, until `unset`
    Set(changes::Set),
    /// Return one of a machine's terms to what the files say
    Unset(changes::Unset),
    /// Stop a machine's traffic, until lifted by hand
    Suspend(changes::Suspend),
    /// Lift what is in force on a machine, or on all
    Lift(changes::Lift),
    /// Let happen what the circuit breaker holds back
    Confirm(changes::Confirm),
    /// End a machine's metering with a last statement
    Cancel(changes::Cancel),
    /// Show bills
    Invoices(money::Invoices),
    /// Record that a bill was paid
    Pay(money::Pay),
    /// Show an account's balance and transactions, or add to it
    Balance(money::Balance),
    /// Say whether the ledger adds up to the byte; or a backup, or exported statements
    Verify(books::Verify),
    /// Write a copy of the ledger, also while the daemon runs
    Backup(books::Backup),
    /// Put a backup in the ledger's place, while the daemon is stopped
    Restore(books::Restore),
    /// Write signed statements of closed periods
    Export(export::Export),
    /// Bring in what a machine moved before it was metered here
    Import(import::Import),
    /// Delete the history of a machine that is neither configured nor here
    Forget(import::Forget),
    /// Make the daemon read its configuration again
    Reload(service::Reload),
    /// Meter an interface now, and return when what stands against its machine stands
    Attach(attach::Args),
    /// Remove everything that the daemon made on this node, and end it
    Detach(service::Detach),
    /// Show what this node has and lacks for metering and enforcing
    Doctor(doctor::Args),
    /// Run a plan against a history, without a kernel and without the daemon
    Simulate(simulate::Args),
    /// Print completions for a shell
    Completions(service::Completions),
}

/// Options of every command that prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Args)]
struct Format {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a command needs from around it.
struct Context {
    config: PathBuf,
    style: Style,
}

impl Context {
    fn daemon(&self) -> Result<Client, Failure> {
        Client::new(&self.config)
    }
}

/// The whole program: arguments in, exit status out.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return misread(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let context = Context {
        config: cli.config.clone().unwrap_or_else(|| CONFIG.into()),
        style: Style::of_stdout(),
    };
    match cli.command {
        Command::Run(args) => service::run(&args, &context),
        Command::Check(args) => service::check(args, &context),
        Command::Status(args) => status::run(&args, &context),
        Command::Usage(args) => usage::run(&args, &context),
        Command::Explain(args) => explain::explain(&args, &context),
        Command::Offer(args) => explain::offer(&args, &context),
        Command::Top(args) => top::run(&args, &context),
        Command::Events(args) => events::run(&args, &context),
        Command::TopUp(args) => changes::top_up(&args, &context),
        Command::Set(args) => changes::set(&args, &context),
        Command::Unset(args) => changes::unset(&args, &context),
        Command::Suspend(args) => changes::suspend(&args, &context),
        Command::Lift(args) => changes::lift(&args, &context),
        Command::Confirm(args) => changes::confirm(&args, &context),
        Command::Cancel(args) => changes::cancel(&args, &context),
        Command::Invoices(args) => money::invoices(&args, &context),
        Command::Pay(args) => money::pay(&args, &context),
        Command::Balance(args) => money::balance(&args, &context),
        Command::Verify(args) => books::verify(&args, &context),
        Command::Backup(args) => books::backup(&args, &context),
        Command::Restore(args) => books::restore(&args, &context),
        Command::Export(args) => export::run(&args, &context),
        Command::Import(args) => import::import(&args, &context),
        Command::Forget(args) => import::forget(&args, &context),
        Command::Reload(args) => service::reload(&args, &context),
        Command::Attach(args) => attach::run(&args, &context),
        Command::Detach(args) => service::detach(&args, &context),
        Command::Doctor(args) => doctor::run(args, &context),
        Command::Simulate(args) => simulate::run(&args, cli.config.as_deref()),
        Command::Completions(args) => service::completions(args),
    }
}

/// Help and version are answers; anything else clap says is a usage error.
fn misread(error: &clap::Error) -> ExitCode {
    let text = error.render();
    if error.use_stderr() {
        let _ = write!(io::stderr(), "{text}");
        return ExitCode::from(Exit::USAGE.0);
    }
    match out::print(&text.to_string()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests;

//! What others count with: nftables, iptables, and the usual eBPF program.

use std::{
    ffi::OsStr,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use meter_tests::{
    Context, Failure, Result,
    naive::{self, Naive},
    sandbox::Sandbox,
};

use crate::lanes::TAP;

/// Somebody's rules, in the namespace of the calling thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// A counter on both netdev hooks of the tap.
    NftCounter,
    /// A quota on both, too far away to be reached.
    NftQuota,
    /// A rule for each direction of so many interfaces, the tap's last.
    Iptables { backend: Backend, interfaces: u32 },
}

/// Which iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Debian's default.
    Nft,
    /// The older one.
    Legacy,
}

impl Backend {
    const fn word(self) -> &'static str {
        match self {
            Self::Nft => "iptables-nft",
            Self::Legacy => "iptables-legacy",
        }
    }
}

impl Rules {
    pub(crate) fn name(self) -> String {
        match self {
            Self::NftCounter => "nftables netdev counter".to_owned(),
            Self::NftQuota => "nftables netdev quota".to_owned(),
            Self::Iptables {
                backend,
                interfaces,
            } => format!("{}, {interfaces} interface(s)", backend.word()),
        }
    }

    /// The program that puts them in place; a machine may not have it.
    fn program(self) -> String {
        match self {
            Self::NftCounter | Self::NftQuota => "nft".to_owned(),
            Self::Iptables { backend, .. } => backend.word().to_owned(),
        }
    }

    /// Whether this machine can.
    pub(crate) fn available(self) -> bool {
        find(&self.program()).is_some()
    }

    pub(crate) fn put(self, sandbox: &Sandbox) -> Result<()> {
        match self {
            Self::NftCounter => nft(&netdev("counter")),
            Self::NftQuota => nft(&netdev(&format!("quota over {} mbytes drop", 1_u64 << 40))),
            Self::Iptables {
                backend,
                interfaces,
            } => {
                let mut text = "*filter\n".to_owned();
                let others = (1..interfaces).map(|n| format!("other{n}"));
                for name in others.chain([TAP.to_owned()]) {
                    text += &format!("-A INPUT -i {name}\n-A OUTPUT -o {name}\n");
                }
                let program = format!("{}-restore", backend.word());
                run(sandbox, &program, &[], &(text + "COMMIT\n")).map(drop)
            }
        }
    }

    /// Packets that they have seen at the tap; `None` where they do not say.
    pub(crate) fn seen(self, sandbox: &Sandbox) -> Result<Option<u64>> {
        match self {
            Self::NftQuota => Ok(None),
            Self::NftCounter => {
                let text = run(sandbox, "nft", &["list", "ruleset"], "")?;
                let words: Vec<&str> = text.split_whitespace().collect();
                let packets = words.windows(2).filter(|pair| pair[0] == "packets");
                Ok(Some(packets.filter_map(|p| p[1].parse::<u64>().ok()).sum()))
            }
            Self::Iptables { backend, .. } => {
                let mut sum = 0;
                for chain in ["INPUT", "OUTPUT"] {
                    let arguments = ["-nvxL", chain];
                    let text = run(sandbox, backend.word(), &arguments, "")?;
                    let ours = text.lines().filter(|line| line.contains(TAP));
                    let packets = ours.filter_map(|line| line.split_whitespace().next());
                    sum += packets.filter_map(|p| p.parse::<u64>().ok()).sum::<u64>();
                }
                Ok(Some(sum))
            }
        }
    }
}

/// A table with one statement on both hooks of the tap.
fn netdev(statement: &str) -> String {
    let chain = |hook: &str| {
        format!(
            "chain {hook} {{ type filter hook {hook} device \"{TAP}\" priority 0; {statement}; }}"
        )
    };
    format!(
        "table netdev bench {{\n{}\n{}\n}}\n",
        chain("ingress"),
        chain("egress")
    )
}

/// Has nftables read this.
pub(crate) fn nft(text: &str) -> Result<()> {
    feed(Command::new(found("nft")?).args(["-f", "-"]), text).map(drop)
}

fn run(sandbox: &Sandbox, program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let mut command = Command::new(found(program)?);
    // Not the machine's own lock, which would be left behind.
    let lock = sandbox.root().join("xtables.lock");
    command.args(arguments).env("XTABLES_LOCKFILE", lock);
    feed(&mut command, input)
}

fn feed(command: &mut Command, input: &str) -> Result<String> {
    let what = format!("run {}", command.get_program().display());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .could_not(|| &what)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).could_not(|| &what)?;
    }
    let output = child.wait_with_output().could_not(|| &what)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(said.trim())).could_not(|| &what)
}

fn found(program: &str) -> Result<PathBuf> {
    find(program).ok_or_else(|| Failure::new(format!("{program} is not installed")))
}

fn find(program: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(OsStr::new(program)))
        .find(|path| path.exists())
}

/// A simple program on both hooks of the tap, with a thousand other entries in its map.
pub(crate) fn naive(kind: naive::Kind, ifindex: u32) -> Result<Naive> {
    let mut naive = Naive::load(kind, (100_000..101_000).chain([ifindex]))?;
    naive.attach(TAP)?;
    Ok(naive)
}

//! Files -> texts -> what each of them says. What cannot be read or is no TOML is a problem
//! like any other: the rest is still checked.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use toml::de::DeTable;

use super::{
    Config, Diagnostic, Diagnostics, Severity,
    check::{self, Files},
    kinds::plan_name,
    machine, node, plan,
    problem::{Place, Problem, Problems},
    syntax,
    table::Table,
};

/// No configuration is larger; a file that is was named by mistake.
const LARGEST_FILE: u64 = 1 << 20;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Plan,
    Machines,
}

/// A file, read or not.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    pub(super) role: Role,
    pub(super) text: Result<Arc<str>, Unreadable>,
}

/// Why a file was not read, and what can be done.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    message: String,
    help: String,
}

impl Unreadable {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: help.into(),
        }
    }
}

impl Source {
    pub(super) fn read(path: &Path, role: Role) -> Self {
        Self {
            path: path.to_owned(),
            role,
            text: read_text(path, role),
        }
    }

    /// A file's name without `.toml`.
    pub(super) fn stem(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }
}

fn read_text(path: &Path, role: Role) -> Result<Arc<str>, Unreadable> {
    let failed = |error: &io::Error| {
        let help = match (error.kind(), role) {
            (io::ErrorKind::NotFound, Role::Main) => {
                "create it (an empty file meters every tap and veth and enforces nothing), \
                 or name another with --config FILE"
            }
            (io::ErrorKind::NotFound, _) => "check the path",
            (io::ErrorKind::PermissionDenied, _) => "run as a user who may read it",
            _ => "check that it is a readable file",
        };
        Unreadable::new(format!("cannot read this file: {error}"), help)
    };
    // A pipe or a device would block or never end.
    if !fs::metadata(path)
        .map_err(|error| failed(&error))?
        .is_file()
    {
        return Err(Unreadable::new(
            "this is not a regular file",
            "put a TOML file there",
        ));
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| failed(&error))?;
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed(&error))?;
    check_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    String::from_utf8(bytes).map(Arc::from).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..good).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("this file is not UTF-8 text: line {line} has a byte that is none");
        Unreadable::new(message, "save it as UTF-8")
    })
}

fn check_size(bytes: u64) -> Result<(), Unreadable> {
    if bytes <= LARGEST_FILE {
        return Ok(());
    }
    Err(Unreadable::new(
        "this file is larger than 1 MiB, which no configuration is",
        "check the path; machines can be spread over several files in machines/",
    ))
}

/// The TOML files of a folder beside the main file, in order of name. No folder, no files.
fn folder(main: &Path, name: &str, role: Role) -> Vec<Source> {
    let path = main.parent().unwrap_or(Path::new("")).join(name);
    match toml_files(&path) {
        Ok(files) => files.iter().map(|file| Source::read(file, role)).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let message = format!("cannot list this folder: {error}");
            let text = Err(Unreadable::new(
                message,
                "make it a folder that can be read",
            ));
            vec![Source { path, role, text }]
        }
    }
}

/// Files named `*.toml`, but for hidden ones: editors leave those.
pub(super) fn toml_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    // An empty path is the folder that the program runs in.
    let listed = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    for entry in fs::read_dir(listed)? {
        let name = entry?.file_name();
        let shown = name.to_string_lossy();
        if shown.ends_with(".toml") && !shown.starts_with('.') {
            files.push(folder.join(&name));
        }
    }
    files.sort();
    Ok(files)
}

impl Config {
    /// Reads `meterd.toml`, and `plans/*.toml` and `machines/*.toml` beside it. A folder may be
    /// missing, the main file may not.
    ///
    /// # Errors
    /// Every problem of every file, each with its place and what to write instead.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let sources = gather(path);
        let mut config = Self::from_sources(&sources)?;
        config.warnings.append(missing_secrets(&config));
        Ok(config)
    }

    /// The same for texts at hand: a file in a folder `plans` or `machines` is one of those,
    /// any other is the main file.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn check_texts(files: &[(PathBuf, String)]) -> Result<Self, Diagnostics> {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| {
                let folder = path
                    .parent()
                    .and_then(Path::file_name)
                    .and_then(|name| name.to_str());
                let role = match folder {
                    Some("plans") => Role::Plan,
                    Some("machines") => Role::Machines,
                    _ => Role::Main,
                };
                let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
                let text = check_size(size).map(|()| Arc::from(text.as_str()));
                Source {
                    path: path.clone(),
                    role,
                    text,
                }
            })
            .collect();
        Self::from_sources(&sources)
    }

    fn from_sources(sources: &[Source]) -> Result<Self, Diagnostics> {
        let problems = Problems::default();
        let files = read(sources, &problems);
        check::across(&files, sources, &problems);
        let (errors, warnings) = diagnostics(sources, problems).split();
        if errors.is_empty() {
            let mut config = check::config(files);
            config.warnings = warnings;
            return Ok(config);
        }
        let mut all = errors;
        all.append(warnings);
        all.sort();
        Err(all)
    }
}

/// The main file and those beside it.
pub(super) fn gather(path: &Path) -> Vec<Source> {
    let mut sources = vec![Source::read(path, Role::Main)];
    sources.extend(folder(path, "plans", Role::Plan));
    sources.extend(folder(path, "machines", Role::Machines));
    sources
}

/// A secret that is not there stops no metering, but what it is for will not work.
fn missing_secrets(config: &Config) -> Diagnostics {
    let password = config
        .smtp
        .iter()
        .filter_map(|smtp| smtp.login.as_ref())
        .map(|(_, file)| file);
    let secrets = password.chain(config.webhooks.iter().map(|webhook| &webhook.secret_file));
    let mut missing = Diagnostics::default();
    for file in secrets {
        if matches!(file.try_exists(), Ok(false)) {
            let diagnostic = Diagnostic {
                severity: Severity::Warning,
                message: "this secret does not exist: notices that need it will not be sent".into(),
                help: "create it, readable by the daemon's user alone".into(),
                file: file.clone(),
                span: None,
            };
            missing.push(diagnostic, None);
        }
    }
    missing
}

/// Reads every source. Problems within a file are noted; those between files are not looked
/// for yet.
pub(super) fn read(sources: &[Source], problems: &Problems) -> Files {
    let mut files = Files::default();
    for (file, source) in sources.iter().enumerate() {
        let start = Place { file, span: 0..0 };
        let name = match source.role {
            Role::Plan => match plan_name(&source.stem()) {
                Ok(name) => Some(name),
                Err(wrong) => {
                    let help = format!("rename the file: {}.toml", wrong.instead);
                    problems.error(&start, wrong.message, help);
                    None
                }
            },
            Role::Main | Role::Machines => None,
        };
        let name = name.unwrap_or_else(|| source.stem().into());
        let text = match &source.text {
            Ok(text) => text,
            Err(why) => {
                problems.error(&start, &why.message, &why.help);
                if source.role == Role::Plan {
                    files.broken_plans.push(name);
                }
                continue;
            }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        let within = Problems::default();
        let top = |title, keys| Table::top(&within, file, title, keys, table.get_ref());
        match source.role {
            Role::Main => {
                let directory = source.path.parent().unwrap_or(Path::new(""));
                files.node = Some(node::read(top("meterd.toml", node::KEYS), directory));
            }
            Role::Plan => {
                files
                    .plans
                    .insert(name.clone(), plan::read(top("a plan", plan::KEYS), name));
            }
            Role::Machines => {
                let (machines, accounts) = machine::file(top("a file of machines", machine::KEYS));
                files.machines.extend(machines);
                files.accounts.extend(accounts);
            }
        }
        syntax::note(&within, file, text, &errors);
        problems.absorb(within);
    }
    files
}

/// Problems with the texts they are in, in the order of the files.
pub(super) fn diagnostics(sources: &[Source], problems: Problems) -> Diagnostics {
    let mut all = Diagnostics::default();
    for Problem {
        severity,
        place,
        message,
        help,
        ..
    } in problems.into_list()
    {
        let Some(source) = sources.get(place.file) else {
            continue;
        };
        let text = source.text.as_ref().ok().cloned();
        // The start of a file stands for all of it.
        let span = Some(place.span).filter(|span| span.end > 0);
        all.push(
            Diagnostic {
                severity,
                message,
                help,
                file: source.path.clone(),
                span,
            },
            text,
        );
    }
    all.sort();
    all
}

//! Files on disk: what is read, what is refused, and what a path is relative to.

use std::{fs, path::Path};

use super::super::{Config, CountBytes};

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

/// What is said of the folder's meterd.toml, with the folder's own name taken out.
fn said(folder: &Path) -> String {
    let problems = Config::load(&folder.join("meterd.toml"))
        .unwrap_err()
        .to_string();
    problems.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn a_main_file_with_plans_and_machines_beside_it_is_one_configuration() {
    let folder = folder(&[
        (
            "meterd.toml",
            b"count-bytes = \"ip\"\nstate-directory = \"state\"\n",
        ),
        ("plans/p.toml", b"allowance = \"1 TB\"\n"),
        ("plans/.hidden.toml", b"what an editor left"),
        ("plans/README", b"no plan"),
        (
            "machines/a.toml",
            b"[[machine]]\nid = \"a\"\nplan = \"p\"\naccount = \"x\"\n",
        ),
        (
            "machines/x.toml",
            b"[[account]]\nid = \"x\"\nbalance = \"50 EUR\"\n",
        ),
    ]);
    let config = Config::load(&folder.path().join("meterd.toml")).unwrap();
    assert_eq!(config.count_bytes, CountBytes::Ip);
    assert_eq!(config.state_directory, folder.path().join("state"));
    assert_eq!(config.pin_directory, Path::new("/sys/fs/bpf/meterd"));
    assert_eq!((config.plans.len(), config.machines.len()), (1, 1));
    let account = &config.accounts.get("x").unwrap().account;
    assert_eq!(account.opening_balance.unwrap().to_string(), "50.00 EUR");
    assert_eq!(account.currency.unwrap().code(), "EUR");
}

#[test]
fn a_main_file_that_is_missing_is_an_error_and_missing_folders_are_not() {
    let empty = folder(&[]);
    insta::assert_snapshot!(said(empty.path()), @r#"
    error: cannot read this file: No such file or directory (os error 2)
    --> meterd.toml
     = help: create it (an empty file meters every tap and veth and enforces nothing), or name another with --config FILE
    "#);
    assert!(Config::load(&folder(&[("meterd.toml", b"")]).path().join("meterd.toml")).is_ok());
}

#[test]
fn files_that_are_no_text_or_no_files_or_too_large_are_named_beside_the_other_problems() {
    let large = vec![b'#'; (1 << 20) + 1];
    let folder = folder(&[
        ("meterd.toml", b"dry-run = 1\n"),
        ("plans/large.toml", &large),
        ("plans/latin.toml", b"# one\n# gr\xf6\xdfe\n"),
        ("plans/folder.toml/x", b""),
        (
            "machines/a.toml",
            b"[[machine]]\nid = \"a\"\nplan = \"latin\"\n",
        ),
    ]);
    insta::assert_snapshot!(said(folder.path()), @r#"
    error: `dry-run` is true or false, without quotes; this is a number
     --> meterd.toml:1:11
      |
    1 | dry-run = 1
      |           ^
      |
      = help: write: dry-run = true

    error: this is not a regular file
    --> plans/folder.toml
     = help: put a TOML file there

    error: this file is larger than 1 MiB, which no configuration is
    --> plans/large.toml
     = help: check the path; machines can be spread over several files in machines/

    error: this file is not UTF-8 text: line 2 has a byte that is none
    --> plans/latin.toml
     = help: save it as UTF-8
    "#);
}

#[test]
fn a_file_of_just_1_mib_is_read() {
    let mut text = vec![b'#'; 1 << 20];
    text[(1 << 20) - 1] = b'\n';
    let folder = folder(&[("meterd.toml", &text)]);
    assert!(Config::load(&folder.path().join("meterd.toml")).is_ok());
}

#[test]
fn a_secret_that_is_not_there_is_warned_of_and_stops_nothing() {
    let main = b"[smtp]\nurl = \"smtp://mail.example.com\"\nfrom = \"a@example.com\"\n\
        user = \"a\"\npassword-file = \"password\"\n\
        [[webhook]]\nurl = \"https://example.com/\"\nsecret-file = \"secret\"\n";
    let folder = folder(&[("meterd.toml", main), ("secret", b"whsec_x")]);
    let config = Config::load(&folder.path().join("meterd.toml")).unwrap();
    let warned: Vec<_> = config
        .warnings
        .iter()
        .map(|warning| warning.file.clone())
        .collect();
    assert_eq!(warned, [folder.path().join("password")]);
}

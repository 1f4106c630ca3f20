//! Where notices go: `[smtp]` and `[[webhook]]`. Checked here, carried out elsewhere.

use std::path::{Path, PathBuf};

use super::{
    kinds::{EMAIL, PATH, TEXT},
    problem::Located,
    table::{Kind, Table},
};
use crate::engine::quantity::{Wrong, quoted};

/// A mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smtp {
    /// How it is spoken to.
    pub security: SmtpSecurity,
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What mails say they are from.
    pub from: String,
    /// User and the file that holds the password.
    pub login: Option<(String, PathBuf)>,
}

/// How a mail server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// `smtps://`: TLS from the first byte.
    Tls,
    /// `smtp://`: STARTTLS when the server offers it.
    StartTls,
    /// `smtp+plain://`: none, on loopback only.
    Plain,
}

/// A receiver of events (Standard Webhooks).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    /// Where to.
    pub url: String,
    /// The file that holds the secret, `whsec_…`.
    pub secret_file: PathBuf,
    /// Which events; every one where empty.
    pub events: Vec<String>,
}

/// The events that a webhook can ask for.
const EVENTS: &[&str] = &[
    "period-started",
    "notice",
    "flagged",
    "unflagged",
    "throttled",
    "capped",
    "suspended",
    "restored",
    "charged",
    "invoiced",
    "paid",
    "overdue",
    "lapsed",
    "topped-up",
    "refused",
    "changed",
    "lifted",
    "override-ended",
    "balance",
    "held-back",
    "confirmed",
    "cancelled",
];

struct Url {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// `scheme://host[:port][/path]`, without a login in it.
fn url(text: &str, example: &str) -> Result<Url, Wrong> {
    let wrong = |why: &str| Wrong::new(format!("{} {why}", quoted(text)), example);
    let (scheme, rest) = text
        .split_once("://")
        .ok_or_else(|| wrong("is not a URL: it has no `://`"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(wrong(
            "holds a login; logins have keys and files of their own",
        ));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(wrong("holds blanks"));
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port
                .parse()
                .map_err(|_| wrong("has a port that is no port"))?;
            (host, Some(port))
        }
        _ => (authority, None),
    };
    if host.is_empty() {
        return Err(wrong("names no host"));
    }
    Ok(Url {
        scheme: scheme.to_owned(),
        host: host.to_owned(),
        port,
    })
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

const SMTP_URL: Kind<(SmtpSecurity, String, u16)> = Kind {
    what: "a mail server",
    example: "smtps://mail.example.com:465",
    parse: |text| {
        let Url { scheme, host, port } = url(text, SMTP_URL.example)?;
        let (security, usual) = match scheme.as_str() {
            "smtps" => (SmtpSecurity::Tls, 465),
            "smtp" => (SmtpSecurity::StartTls, 587),
            "smtp+plain" => (SmtpSecurity::Plain, 25),
            _ => {
                return Err(Wrong::new(
                    format!("{} is not smtps, smtp or smtp+plain", quoted(&scheme)),
                    format!("smtps://{host}:465"),
                ));
            }
        };
        if security == SmtpSecurity::Plain && !is_loopback(&host) {
            return Err(Wrong::new(
                format!(
                    "mail to {} would cross a network in the clear",
                    quoted(&host)
                ),
                format!("smtp://{host}:{}", port.unwrap_or(587)),
            ));
        }
        Ok((security, host, port.unwrap_or(usual)))
    },
};

const WEBHOOK_URL: Kind<String> = Kind {
    what: "a URL",
    example: "https://billing.example.com/traffic",
    parse: |text| {
        let Url { scheme, host, .. } = url(text, WEBHOOK_URL.example)?;
        match scheme.as_str() {
            "https" | "http" => Ok(text.to_owned()),
            _ => Err(Wrong::new(
                format!("{} is neither https nor http", quoted(&scheme)),
                format!("https://{host}/"),
            )),
        }
    },
};

const EVENT: Kind<String> = Kind {
    what: "an event",
    example: "notice",
    parse: |text| {
        if EVENTS.contains(&text) {
            return Ok(text.to_owned());
        }
        let message = format!(
            "{} is no event; it is one of {}",
            quoted(text),
            EVENTS.join(", ")
        );
        Err(Wrong::new(
            message,
            super::table::nearest(text, EVENTS).unwrap_or("notice"),
        ))
    },
};

/// Reads `[smtp]`. `directory` is that of the file, to which paths are relative.
pub(super) fn smtp(table: Table<'_>, directory: &Path) -> Option<Smtp> {
    let server = table.require("url", &SMTP_URL);
    let from = table.require("from", &EMAIL);
    let user = table.read("user", &TEXT);
    let password_file = table.read("password-file", &PATH);
    for (key, other) in [("user", "password-file"), ("password-file", "user")] {
        if table.has(key) && !table.has(other) {
            table.problems.absent(
                &table.place_of(key),
                format!("`{key}` without `{other}` is no login"),
                match other {
                    "user" => "write: user = \"traffic\"",
                    _ => "write: password-file = \"smtp.password\"",
                },
            );
        }
    }
    table.finish();
    let (security, host, port) = server?.value;
    let password_file = password_file.map(|file| directory.join(file.value));
    let login = user.map(|user| user.value).zip(password_file);
    Some(Smtp {
        security,
        host,
        port,
        from: from?.value,
        login,
    })
}

/// Reads one `[[webhook]]`.
pub(super) fn webhook(table: Table<'_>, directory: &Path) -> Option<Webhook> {
    let url = table.require("url", &WEBHOOK_URL);
    let secret_file = table.read("secret-file", &PATH);
    if !table.has("secret-file") {
        table.problems.absent(
            &table.place,
            "[[webhook]] has no `secret-file`: its receiver could not tell our events from others'",
            "write: secret-file = \"webhook.secret\" (a file that holds whsec_…)",
        );
    }
    let events: Vec<Located<String>> = table.list("events", &EVENT);
    if table.is_empty_list("events") {
        table.problems.error(
            &table.place_of("events"),
            "no event at all goes to this webhook",
            "leave `events` out for every event, or name some: events = [\"notice\"]",
        );
    }
    table.finish();
    Some(Webhook {
        url: url?.value,
        secret_file: directory.join(secret_file?.value),
        events: events.into_iter().map(|event| event.value).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_is_spoken_to_in_the_clear_on_loopback_only() {
        let read = |text| (SMTP_URL.parse)(text);
        let host = |host: &str| host.to_owned();
        for (text, expected) in [
            (
                "smtps://mail.example.com:465",
                (SmtpSecurity::Tls, host("mail.example.com"), 465),
            ),
            (
                "smtp://mail.example.com",
                (SmtpSecurity::StartTls, host("mail.example.com"), 587),
            ),
            (
                "smtp+plain://127.0.0.1:2525",
                (SmtpSecurity::Plain, host("127.0.0.1"), 2525),
            ),
            (
                "smtp+plain://[::1]",
                (SmtpSecurity::Plain, host("[::1]"), 25),
            ),
        ] {
            assert_eq!(read(text), Ok(expected), "{text}");
        }
        for (text, instead) in [
            (
                "smtp+plain://mail.example.com",
                "smtp://mail.example.com:587",
            ),
            ("mail.example.com", "smtps://mail.example.com:465"),
            ("imap://mail.example.com", "smtps://mail.example.com:465"),
            (
                "smtp://user:secret@mail.example.com",
                "smtps://mail.example.com:465",
            ),
            ("smtp://mail:port", "smtps://mail.example.com:465"),
            ("smtp://:25", "smtps://mail.example.com:465"),
        ] {
            assert_eq!(read(text).unwrap_err().instead, instead, "{text}");
        }
    }
}

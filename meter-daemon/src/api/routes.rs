//! The control socket's paths: what may be said to each, and the [`Ask`] that it becomes.

use super::{
    Ask, Import, Problem,
    body::{self, Fields, unfit},
};
use crate::{
    engine::{
        command::CommandAction,
        quantity,
        units::{AccountId, Currency, MachineId},
    },
    ledger::{Resolution, SeedRow},
};

/// Events in one answer, unless fewer are asked for.
const EVENTS: usize = 1_000;
/// And never more than these: a reader goes on with `after`.
const MOST_EVENTS: usize = 10_000;

/// A month of minutes.
const LARGEST_IMPORT: usize = 6 * 1024 * 1024;

/// A path, what may be said to it, and what it asks.
pub(super) struct Route {
    pub(super) verb: Verb,
    pub(super) path: &'static str,
    /// Keys of the query (`GET`) or the body (`POST`).
    pub(super) keys: &'static [&'static str],
    /// A body's bytes at most, where it may be larger than others.
    pub(super) largest: Option<usize>,
    pub(super) ask: fn(Input) -> Result<Question, Problem>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
}

/// What came with a request.
pub(super) struct Input {
    /// The path's `{id}`; empty where it has none.
    pub(super) id: String,
    pub(super) fields: Fields,
    pub(super) key: Option<String>,
}

/// What is put to the loop.
pub(super) struct Question {
    pub(super) ask: Ask,
    /// An amount named a currency: the account must have it.
    pub(super) currency: Option<(AccountId, Currency)>,
}

impl From<Ask> for Question {
    fn from(ask: Ask) -> Self {
        Self {
            ask,
            currency: None,
        }
    }
}

const fn get(
    path: &'static str,
    keys: &'static [&'static str],
    ask: fn(Input) -> Result<Question, Problem>,
) -> Route {
    Route {
        verb: Verb::Get,
        path,
        keys,
        largest: None,
        ask,
    }
}

const fn post(
    path: &'static str,
    keys: &'static [&'static str],
    ask: fn(Input) -> Result<Question, Problem>,
) -> Route {
    Route {
        verb: Verb::Post,
        path,
        keys,
        largest: None,
        ask,
    }
}

/// Every path but the document's own.
pub(super) const ROUTES: &[Route] = &[
    get("/v1/machines", &[], |_| {
        Ok(Ask::Status { machine: None }.into())
    }),
    get("/v1/machines/{id}", &[], |input| {
        Ok(Ask::Status {
            machine: Some(input.machine()),
        }
        .into())
    }),
    get("/v1/machines/{id}/usage", &["by", "from", "to"], usage),
    get("/v1/machines/{id}/explain", &[], |input| {
        Ok(Ask::Explain {
            machine: input.machine(),
        }
        .into())
    }),
    get("/v1/machines/{id}/offer", &[], |input| {
        Ok(Ask::Offer {
            machine: input.machine(),
        }
        .into())
    }),
    get(
        "/v1/events",
        &["machine", "since", "after", "limit"],
        events,
    ),
    get("/v1/invoices", &["account"], |mut input| {
        let account = input.fields.text("account")?.map(AccountId::from);
        Ok(Ask::Invoices { account }.into())
    }),
    get("/v1/accounts/{id}/balance", &[], |input| {
        Ok(Ask::Balance {
            account: input.id.into(),
        }
        .into())
    }),
    post(
        "/v1/machines/{id}/top-up",
        &["volume", "from_pool", "reason", "dry_run"],
        |mut input| {
            let volume = input.fields.required("volume", "\"1 TB\"")?;
            let action = CommandAction::TopUp {
                machine: input.machine(),
                volume: quantity::volume(&volume)
                    .map_err(|error| unfit(format!("`volume`: {error}")))?,
                from_pool: input.fields.flag("from_pool")?,
            };
            input.command(action)
        },
    ),
    post(
        "/v1/machines/{id}/set",
        &[
            "plan",
            "allowance",
            "renewal-day",
            "cost-limit",
            "auto-unsuspend",
            "reason",
            "dry_run",
        ],
        set,
    ),
    post(
        "/v1/machines/{id}/unset",
        &["key", "reason", "dry_run"],
        |mut input| {
            let key = input.fields.required("key", "\"allowance\"")?;
            let key =
                body::parse_setting_key(&key).map_err(|error| unfit(format!("`key`: {error}")))?;
            let machine = input.machine();
            input.command(CommandAction::Unset { machine, key })
        },
    ),
    post(
        "/v1/machines/{id}/suspend",
        &["for", "until", "reason", "dry_run"],
        |mut input| {
            let (machine, until) = (input.machine(), input.fields.until()?);
            input.command(CommandAction::Suspend { machine, until })
        },
    ),
    post(
        "/v1/machines/{id}/lift",
        &["for", "until", "reason", "dry_run"],
        |mut input| {
            let (machine, until) = (Some(input.machine()), input.fields.until()?);
            input.command(CommandAction::Lift { machine, until })
        },
    ),
    post(
        "/v1/machines/{id}/cancel",
        &["reason", "dry_run"],
        |input| {
            let machine = input.machine();
            input.command(CommandAction::Cancel { machine })
        },
    ),
    post(
        "/v1/lift",
        &["for", "until", "reason", "dry_run"],
        |mut input| {
            let until = input.fields.until()?;
            input.command(CommandAction::Lift {
                machine: None,
                until,
            })
        },
    ),
    post("/v1/confirm", &["reason", "dry_run"], |input| {
        input.command(CommandAction::Confirm)
    }),
    Route {
        largest: Some(LARGEST_IMPORT),
        ..post(
            "/v1/machines/{id}/import",
            &["rows", "source", "reason", "dry_run"],
            import,
        )
    },
    post(
        "/v1/machines/{id}/forget",
        &["reason", "dry_run"],
        |mut input| {
            let machine = input.machine();
            let (reason, dry_run) = input.circumstances()?;
            Ok(Ask::Forget {
                machine,
                reason,
                key: input.key,
                dry_run,
            }
            .into())
        },
    ),
    post("/v1/invoices/{id}/pay", &["reason", "dry_run"], |input| {
        let invoice = input.id.as_str().into();
        input.command(CommandAction::Pay { invoice })
    }),
    post(
        "/v1/accounts/{id}/balance",
        &["add", "reason", "dry_run"],
        balance,
    ),
    post("/v1/reload", &["reason", "dry_run"], |mut input| {
        let (reason, dry_run) = input.circumstances()?;
        Ok(Ask::Reload { reason, dry_run }.into())
    }),
    post("/v1/detach", &["reason", "dry_run"], |mut input| {
        let (reason, dry_run) = input.circumstances()?;
        Ok(Ask::Detach { reason, dry_run }.into())
    }),
    post(
        "/v1/attach",
        &[
            "interface",
            "machine",
            "libvirt",
            "name",
            "reason",
            "dry_run",
        ],
        attach,
    ),
];

impl Input {
    fn machine(&self) -> MachineId {
        self.id.as_str().into()
    }

    fn circumstances(&mut self) -> Result<(Option<String>, bool), Problem> {
        Ok((self.fields.text("reason")?, self.fields.flag("dry_run")?))
    }

    fn command(self, action: CommandAction) -> Result<Question, Problem> {
        self.commands(vec![action])
    }

    fn commands(mut self, actions: Vec<CommandAction>) -> Result<Question, Problem> {
        let (reason, dry_run) = self.circumstances()?;
        Ok(Ask::Command {
            actions,
            reason,
            key: self.key,
            dry_run,
        }
        .into())
    }
}

fn usage(mut input: Input) -> Result<Question, Problem> {
    let by = input.fields.parsed("by", |text| match text {
        "minute" => Ok(Resolution::Minute),
        "hour" => Ok(Resolution::Hour),
        "day" => Ok(Resolution::Day),
        "month" => Ok(Resolution::Month),
        "period" => Ok(Resolution::Period),
        _ => Err(format!(
            "expected minute, hour, day, month or period, found `{text}`"
        )),
    })?;
    let from = input.fields.parsed("from", body::parse_instant)?;
    let to = input.fields.parsed("to", body::parse_instant)?;
    let by = by.unwrap_or(Resolution::Day);
    Ok(Ask::Usage {
        machine: input.machine(),
        by,
        from,
        to,
    }
    .into())
}

fn events(mut input: Input) -> Result<Question, Problem> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| format!("expected a whole number, found `{text}`"))
    };
    let machine = input.fields.text("machine")?.map(MachineId::from);
    let since = input.fields.parsed("since", body::parse_instant)?;
    let after = input.fields.parsed("after", number)?;
    let limit = input.fields.parsed("limit", number)?;
    let limit = limit.map_or(EVENTS, |limit| {
        usize::try_from(limit).map_or(MOST_EVENTS, |limit| limit.clamp(1, MOST_EVENTS))
    });
    Ok(Ask::Events {
        machine,
        since,
        after,
        limit,
    }
    .into())
}

fn set(mut input: Input) -> Result<Question, Problem> {
    let machine = input.machine();
    let (reason, dry_run) = input.circumstances()?;
    let mut actions = Vec::new();
    for (key, value) in input.fields.rest() {
        let change = body::change_from_json(&key, &value)?;
        actions.push(CommandAction::Set {
            machine: machine.clone(),
            change,
        });
    }
    if actions.is_empty() {
        return Err(unfit(
            "nothing to set; write it like {\"allowance\": \"2 TB\"}",
        ));
    }
    Ok(Ask::Command {
        actions,
        reason,
        key: input.key,
        dry_run,
    }
    .into())
}

fn import(mut input: Input) -> Result<Question, Problem> {
    let machine = input.machine();
    let source = input.fields.text("source")?;
    let (reason, dry_run) = input.circumstances()?;
    let example = "[{\"from\":\"2026-11-01T00:00:00Z\",\"to\":\"2026-11-02T00:00:00Z\",\
                   \"received\":1000,\"sent\":500}]";
    let rows = input
        .fields
        .value("rows")
        .ok_or_else(|| unfit(format!("`rows` is missing; write it like {example}")))?;
    let rows: Vec<SeedRow> = serde_json::from_value(rows)
        .map_err(|error| unfit(format!("`rows`: {error}; write them like {example}")))?;
    Ok(Ask::Import {
        import: Import {
            machine,
            rows: ordered(rows)?,
            source: source.unwrap_or_else(|| "the control socket".to_owned()),
        },
        reason,
        key: input.key,
        dry_run,
    }
    .into())
}

/// Rows in order of time, none overlapping; those without traffic say nothing.
fn ordered(mut rows: Vec<SeedRow>) -> Result<Vec<SeedRow>, Problem> {
    let mut before: Option<SeedRow> = None;
    for (number, row) in (1..).zip(&rows) {
        if row.from >= row.to {
            return Err(unfit(format!(
                "row {number} ends at {}, which is not after its beginning {}",
                row.to, row.from
            )));
        }
        if let Some(before) = before
            && row.from < before.to
        {
            return Err(unfit(format!(
                "row {number} begins at {}, before the row before it ends at {}",
                row.from, before.to
            )));
        }
        before = Some(*row);
    }
    rows.retain(|row| !row.traffic().is_zero());
    if rows.is_empty() {
        return Err(unfit("there is no row with traffic: nothing to import"));
    }
    Ok(rows)
}

fn balance(mut input: Input) -> Result<Question, Problem> {
    let account = AccountId::from(input.id.as_str());
    let text = input.fields.required("add", "\"50.00 EUR\"")?;
    let (add, currency) =
        body::parse_amount(&text).map_err(|error| unfit(format!("`add`: {error}")))?;
    let currency = currency.map(|currency| (account.clone(), currency));
    let question = input.command(CommandAction::Balance { account, add })?;
    Ok(Question {
        currency,
        ..question
    })
}

fn attach(mut input: Input) -> Result<Question, Problem> {
    let (reason, dry_run) = input.circumstances()?;
    let interface = input.fields.required("interface", "\"vnet7\"")?;
    let machine = input.fields.text("machine")?.map(MachineId::from);
    let uuid = input.fields.text("libvirt")?;
    let name = input.fields.text("name")?;
    let libvirt = match (uuid, name) {
        (Some(uuid), Some(name)) => Some((uuid, name)),
        (None, None) => None,
        _ => {
            return Err(unfit(
                "`libvirt`, the domain's UUID, and `name`, its name, come together",
            ));
        }
    };
    Ok(Ask::Attach {
        interface,
        machine,
        libvirt,
        reason,
        dry_run,
    }
    .into())
}

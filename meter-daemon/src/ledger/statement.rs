//! What a machine moved in a period that is closed, signed and chained, so that somebody who
//! has no part in it can tell later whether anything was changed, left out or put in.
//!
//! The format is `docs/statements.md`'s. It depends on nothing but the closed periods and
//! the key: the same statement is always the same bytes.

use std::{collections::BTreeMap, fmt, str::FromStr};

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    memory::MachineKey,
    value::{self, Instant},
};
use crate::engine::units::{Bytes, MachineId, Traffic};

/// Bytes as lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected {} hexadecimal digits, found `{text}`", N * 2);
        if text.len() != N * 2 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; N];
        for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hash of a statement's text.
pub type Hash = Hex<32>;

/// What stands before a machine's first statement.
const NOTHING: Hash = Hex([0; 32]);

/// One machine's closed period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// Which ledger says so: a name given at random when it was begun.
    pub ledger: Hex<16>,
    /// Whose.
    pub machine: MachineId,
    /// 1 for a machine's first, and one more for each that follows.
    pub sequence: u64,
    /// The period's first instant.
    pub start: Timestamp,
    /// The next one's.
    pub end: Timestamp,
    /// By the guest.
    pub received: Bytes,
    /// By the guest.
    pub sent: Bytes,
    /// To or from exempt prefixes; in neither of the other two.
    pub exempt: Bytes,
    /// Of the machine's statement before; zeroes for the first.
    pub previous: Hash,
}

impl Statement {
    /// What is hashed and signed.
    #[must_use]
    pub fn text(&self) -> String {
        let Self {
            ledger,
            machine,
            sequence,
            start,
            end,
            received: Bytes(received),
            sent: Bytes(sent),
            exempt: Bytes(exempt),
            previous,
        } = self;
        format!(
            "meterd statement 1\nledger {ledger}\nmachine {machine}\nsequence {sequence}\n\
             start {start}\nend {end}\nreceived {received}\nsent {sent}\nexempt {exempt}\n\
             previous {previous}\n"
        )
    }

    /// SHA-256 of the text.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hex(digest(self.text().as_bytes()))
    }

    /// With the key's signature.
    #[must_use]
    pub fn sign(self, key: &SigningKey) -> Signed {
        Signed {
            hash: self.hash(),
            signature: Hex(key.sign(self.text().as_bytes()).to_bytes()),
            key: Hex(key.verifying_key().to_bytes()),
            statement: self,
        }
    }
}

/// SHA-256.
pub(super) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A statement as it is exported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// What is said.
    #[serde(flatten)]
    pub statement: Statement,
    /// Of its text.
    pub hash: Hash,
    /// Ed25519, of its text.
    pub signature: Hex<64>,
    /// The public key that the signature is by.
    pub key: Hex<32>,
}

/// What was found in statements that are all as they were signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chains {
    /// How many there are.
    pub statements: u64,
    /// By ledger and machine: the first and the last sequence number.
    pub machines: BTreeMap<(String, MachineId), (u64, u64)>,
}

/// Whether these statements are as they were signed by this key, and each machine's follow
/// one another with none left out between them.
///
/// # Errors
/// The first that is wrong, counted from 1, and why.
pub fn verify(statements: &[Signed], key: &Hex<32>) -> Result<Chains, String> {
    let verifier = VerifyingKey::from_bytes(&key.0)
        .map_err(|_| format!("`{key}` is no Ed25519 public key"))?;
    let mut chains = Chains::default();
    let mut last: BTreeMap<(String, MachineId), &Signed> = BTreeMap::new();
    for (number, signed) in (1_u64..).zip(statements) {
        let statement = &signed.statement;
        let wrong = |why: String| {
            let Statement {
                machine, sequence, ..
            } = statement;
            Err(format!(
                "statement {number} of the file, {sequence} of {machine}: {why}"
            ))
        };
        if statement.hash() != signed.hash {
            return wrong(format!(
                "it was changed: its hash is {}, and it says {}",
                statement.hash(),
                signed.hash
            ));
        }
        if signed.key != *key {
            return wrong(format!("it is signed by another key, {}", signed.key));
        }
        let signature = Signature::from_bytes(&signed.signature.0);
        if verifier
            .verify_strict(statement.text().as_bytes(), &signature)
            .is_err()
        {
            return wrong("its signature is not of this key".to_owned());
        }
        let chain = (statement.ledger.to_string(), statement.machine.clone());
        if let Some(before) = last.insert(chain.clone(), signed) {
            let expected = before.statement.sequence + 1;
            if statement.sequence != expected {
                return wrong(format!("statement {expected} should follow here"));
            }
            if statement.previous != before.hash {
                return wrong(
                    "it does not follow the one before: its `previous` differs".to_owned(),
                );
            }
            if statement.start < before.statement.end {
                return wrong("its period begins before the one before has ended".to_owned());
            }
        } else if statement.sequence == 1 && statement.previous != NOTHING {
            return wrong("it is the first, and names one before it".to_owned());
        }
        let range = chains
            .machines
            .entry(chain)
            .or_insert((statement.sequence, statement.sequence));
        range.1 = statement.sequence;
        chains.statements += 1;
    }
    Ok(chains)
}

/// The statements of every machine's closed periods, or of one machine's, in order.
pub(super) fn all(
    connection: &Connection,
    only: Option<&MachineId>,
) -> rusqlite::Result<Vec<Statement>> {
    let mut statements = Vec::new();
    let ledger = ledger_id(connection)?;
    let mut machines = connection.prepare("SELECT id, name FROM machine ORDER BY name")?;
    let machines = machines.query_map([], |row| {
        Ok((
            MachineKey(row.get(0)?),
            MachineId::from(row.get::<_, String>(1)?),
        ))
    })?;
    for machine in machines {
        let (key, name) = machine?;
        if only.is_none_or(|only| *only == name) {
            of_machine(connection, ledger, key, &name, &mut statements)?;
        }
    }
    Ok(statements)
}

fn ledger_id(connection: &Connection) -> rusqlite::Result<Hex<16>> {
    let id: String = connection.query_row("SELECT id FROM ledger", [], |row| row.get(0))?;
    id.parse().map_err(text)
}

fn text(why: String) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, why.into())
}

fn of_machine(
    connection: &Connection,
    ledger: Hex<16>,
    MachineKey(key): MachineKey,
    machine: &MachineId,
    statements: &mut Vec<Statement>,
) -> rusqlite::Result<()> {
    let (mut sequence, mut previous) = end_of_forgotten(connection, machine)?;
    let mut periods = connection.prepare_cached(
        "SELECT period_start, period_end, received, sent, exempt FROM period WHERE machine = ?1
         ORDER BY period_start",
    )?;
    let mut periods = periods.query([key])?;
    while let Some(row) = periods.next()? {
        let (Instant(start), Instant(end)) = (row.get(0)?, row.get(1)?);
        let Traffic {
            received,
            sent,
            exempt,
        } = value::traffic(row, 2)?;
        sequence += 1;
        let statement = Statement {
            ledger,
            machine: machine.clone(),
            sequence,
            start,
            end,
            received,
            sent,
            exempt,
            previous,
        };
        previous = statement.hash();
        statements.push(statement);
    }
    Ok(())
}

/// Where the statements of an earlier machine of this name ended, which was forgotten.
fn end_of_forgotten(connection: &Connection, machine: &MachineId) -> rusqlite::Result<(u64, Hash)> {
    let found: Option<(u64, String)> = connection
        .prepare_cached("SELECT sequence, hash FROM chain WHERE machine = ?1")?
        .query_row([machine.as_str()], |row| {
            Ok((super::query::sequence(row.get(0)?), row.get(1)?))
        })
        .optional()?;
    match found {
        None => Ok((0, NOTHING)),
        Some((sequence, hash)) => Ok((sequence, hash.parse().map_err(text)?)),
    }
}

/// Keeps the end of a machine's statements, before its periods go.
pub(super) fn keep_end(
    connection: &Connection,
    key: MachineKey,
    machine: &MachineId,
) -> rusqlite::Result<()> {
    let mut statements = Vec::new();
    of_machine(
        connection,
        ledger_id(connection)?,
        key,
        machine,
        &mut statements,
    )?;
    let Some(last) = statements.last() else {
        return Ok(());
    };
    connection.execute(
        "INSERT OR REPLACE INTO chain VALUES (?1, ?2, ?3)",
        rusqlite::params![
            machine.as_str(),
            i64::try_from(last.sequence).unwrap_or(i64::MAX),
            last.hash().to_string()
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain() -> (Vec<Signed>, Hex<32>) {
        let key = SigningKey::from_bytes(&[7; 32]);
        let mut previous = NOTHING;
        let signed = (1..=3_u64).map(|sequence| {
            let at = |month: u64| format!("2026-0{month}-01T00:00:00Z").parse().unwrap();
            let statement = Statement {
                ledger: Hex([0xab; 16]),
                machine: "web1".into(),
                sequence,
                start: at(sequence),
                end: at(sequence + 1),
                received: Bytes(u64::MAX),
                sent: Bytes(sequence),
                exempt: Bytes(0),
                previous,
            };
            previous = statement.hash();
            statement.sign(&key)
        });
        (signed.collect(), Hex(key.verifying_key().to_bytes()))
    }

    #[test]
    fn a_statement_is_these_bytes_and_no_others() {
        let (statements, _) = chain();
        insta::assert_snapshot!(statements[1].statement.text(), @"
        meterd statement 1
        ledger abababababababababababababababab
        machine web1
        sequence 2
        start 2026-02-01T00:00:00Z
        end 2026-03-01T00:00:00Z
        received 18446744073709551615
        sent 2
        exempt 0
        previous b68ef7499876bec16a91bb293f7accebcd46065a50bd8c53841b75e502fd3bee
        ");
    }

    #[test]
    fn what_was_changed_left_out_moved_or_put_in_is_found_and_named() {
        let (good, key) = chain();
        let chains = verify(&good, &key).unwrap();
        let whole = (good[0].statement.ledger.to_string(), "web1".into());
        assert_eq!((chains.statements, chains.machines[&whole]), (3, (1, 3)));
        verify(&good[1..], &key).unwrap();

        let changed = |change: &dyn Fn(&mut Vec<Signed>)| {
            let mut statements = good.clone();
            change(&mut statements);
            verify(&statements, &key).unwrap_err()
        };
        let sign_anew = |signed: &mut Signed, by: u8| {
            *signed = signed
                .statement
                .clone()
                .sign(&SigningKey::from_bytes(&[by; 32]));
        };
        for (why, error) in [
            (
                "it was changed",
                changed(&|all| all[1].statement.sent = Bytes(1)),
            ),
            (
                "its signature is not of this key",
                changed(&|all| {
                    all[1].statement.sent = Bytes(1);
                    sign_anew(&mut all[1], 8);
                    all[1].key = key;
                }),
            ),
            (
                "signed by another key",
                changed(&|all| sign_anew(&mut all[2], 8)),
            ),
            (
                "statement 2 should follow",
                changed(&|all| drop(all.remove(1))),
            ),
            ("statement 2 should follow", changed(&|all| all.swap(1, 2))),
            (
                "statement 2 should follow",
                changed(&|all| all.insert(1, all[0].clone())),
            ),
            // Even by who has the key.
            (
                "its `previous` differs",
                changed(&|all| {
                    all[1].statement.sent = Bytes(1);
                    sign_anew(&mut all[1], 7);
                }),
            ),
        ] {
            assert!(error.contains(why), "{error}");
        }
        verify(&good, &Hex([1; 32])).unwrap_err();
    }
}

//! How our types stand in SQLite, whose only integer is signed and of 64 bits.

use jiff::Timestamp;
use rusqlite::{
    Row,
    types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef},
};

use crate::engine::units::{Bytes, Traffic};

/// An unsigned number, kept bit for bit: what is above `i64::MAX` reads as negative in a
/// SQL shell and comes back here as it was. This is the only place that casts. SQL must
/// not add or compare such columns itself: it would turn an overflow into a float.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsigned(pub(super) u64);

impl ToSql for Unsigned {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.cast_signed()))
    }
}

impl FromSql for Unsigned {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(value.as_i64()?.cast_unsigned()))
    }
}

/// An instant in nanoseconds since 1970: exactly what was given, until the year 2262.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instant(pub(super) Timestamp);

impl ToSql for Instant {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        i64::try_from(self.0.as_nanosecond())
            .map(ToSqlOutput::from)
            .map_err(|error| {
                let cause = format!("{} is no time that the ledger can keep: {error}", self.0);
                rusqlite::Error::ToSqlConversionFailure(cause.into())
            })
    }
}

impl FromSql for Instant {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Timestamp::from_nanosecond(value.as_i64()?.into())
            .map(Self)
            .map_err(FromSqlError::other)
    }
}

/// Three columns, from `first` on.
pub(super) fn traffic(row: &Row<'_>, first: usize) -> rusqlite::Result<Traffic> {
    Ok(Traffic {
        received: bytes(row, first)?,
        sent: bytes(row, first + 1)?,
        exempt: bytes(row, first + 2)?,
    })
}

/// One column.
pub(super) fn bytes(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    row.get(column).map(|Unsigned(bytes)| Bytes(bytes))
}

/// The three columns' values, in the order of [`traffic`].
pub(super) fn columns(traffic: Traffic) -> [Unsigned; 3] {
    [traffic.received, traffic.sent, traffic.exempt].map(|Bytes(bytes)| Unsigned(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unsigned_number_and_every_nanosecond_comes_back() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        for number in [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX] {
            let Unsigned(back) = connection
                .query_row("SELECT ?1", [Unsigned(number)], |row| row.get(0))
                .unwrap();
            assert_eq!(back, number);
        }
        for instant in ["1970-01-01T00:00:00Z", "2026-11-20T06:30:00.123456789Z"] {
            let instant: Timestamp = instant.parse().unwrap();
            let Instant(back) = connection
                .query_row("SELECT ?1", [Instant(instant)], |row| row.get(0))
                .unwrap();
            assert_eq!(back, instant);
        }
        let beyond: Timestamp = "9999-01-01T00:00:00Z".parse().unwrap();
        assert!(Instant(beyond).to_sql().is_err());
    }
}

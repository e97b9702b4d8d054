//! Columns to values: the few conversions that every noun needs.

use model::Time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::{Error, Result};

/// An id column.
pub(crate) fn id<T>(
    row: &SqliteRow,
    column: &str,
    parse: impl Fn(&str) -> Result<T, model::ids::InvalidId>,
) -> Result<T> {
    let text: String = row.try_get(column)?;
    parse(&text).map_err(|e| Error::Unreadable { what: "id", reason: e.to_string() })
}

/// An id column that may be null.
pub(crate) fn id_opt<T>(
    row: &SqliteRow,
    column: &str,
    parse: impl Fn(&str) -> Result<T, model::ids::InvalidId>,
) -> Result<Option<T>> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| parse(&text))
        .transpose()
        .map_err(|e| Error::Unreadable { what: "id", reason: e.to_string() })
}

/// A count or size.
pub(crate) fn number(row: &SqliteRow, column: &str) -> Result<u64> {
    let n: i64 = row.try_get(column)?;
    Ok(u64::try_from(n).unwrap_or(0))
}

/// A count that fits 32 bits.
pub(crate) fn count(row: &SqliteRow, column: &str) -> Result<u32> {
    Ok(u32::try_from(number(row, column)?).unwrap_or(u32::MAX))
}

/// A moment.
pub(crate) fn time(row: &SqliteRow, column: &str) -> Result<Time> {
    Ok(Time(number(row, column)?))
}

/// A moment that may be null.
pub(crate) fn time_opt(row: &SqliteRow, column: &str) -> Result<Option<Time>> {
    let n: Option<i64> = row.try_get(column)?;
    Ok(n.map(|n| Time(u64::try_from(n).unwrap_or(0))))
}

/// A number as SQLite keeps it.
pub(crate) fn int(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A value kept as JSON.
pub(crate) fn json<T: Serialize>(what: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Unreadable { what, reason: e.to_string() })
}

/// A value read from JSON.
pub(crate) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Error::Unreadable { what, reason: e.to_string() })
}

//! Cells of a SQLite row. SQLite columns hold any type; a value of another type than the schema's
//! is an error here.

use std::net::IpAddr;

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{FromSql, ValueRef};
use serde_json::Value;
use uuid::Uuid;

use crate::store::record::{Record, WrongType};

impl Record for Row<'_> {
    fn name(&self, column: usize) -> String {
        self.as_ref().column_name(column).map(str::to_owned).unwrap_or_default()
    }

    fn text(&self, column: usize) -> Result<Option<String>, WrongType> {
        cell(self, column)
    }

    fn number(&self, column: usize) -> Result<Option<i64>, WrongType> {
        cell(self, column)
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, WrongType> {
        let micros: Option<i64> = cell(self, column)?;
        micros.map(|m| Timestamp::from_microsecond(m).map_err(|_| WrongType)).transpose()
    }

    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>, WrongType> {
        cell(self, column)
    }

    fn uuid(&self, column: usize) -> Result<Option<Uuid>, WrongType> {
        cell(self, column)
    }

    fn address(&self, column: usize) -> Result<Option<IpAddr>, WrongType> {
        text(self, column)?.map(|text| text.parse().map_err(|_| WrongType)).transpose()
    }

    fn json(&self, column: usize) -> Result<Option<Value>, WrongType> {
        text(self, column)?.map(|t| serde_json::from_str(t).map_err(|_| WrongType)).transpose()
    }
}

fn cell<T: FromSql>(row: &Row<'_>, column: usize) -> Result<Option<T>, WrongType> {
    row.get(column).map_err(|_| WrongType)
}

fn text<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a str>, WrongType> {
    match row.get_ref(column).map_err(|_| WrongType)? {
        ValueRef::Null => Ok(None),
        value => value.as_str().map(Some).map_err(|_| WrongType),
    }
}

//! Cells of a PostgreSQL row.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use crate::store::record::{Record, WrongType};

impl Record for Row {
    fn name(&self, column: usize) -> String {
        self.columns().get(column).map(|c| c.name().to_owned()).unwrap_or_default()
    }

    fn text(&self, column: usize) -> Result<Option<String>, WrongType> {
        cell(self, column)
    }

    fn number(&self, column: usize) -> Result<Option<i64>, WrongType> {
        cell(self, column)
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, WrongType> {
        cell(self, column)
    }

    fn bytes(&self, column: usize) -> Result<Option<Vec<u8>>, WrongType> {
        cell(self, column)
    }

    fn uuid(&self, column: usize) -> Result<Option<Uuid>, WrongType> {
        cell(self, column)
    }

    fn address(&self, column: usize) -> Result<Option<IpAddr>, WrongType> {
        cell(self, column)
    }

    fn json(&self, column: usize) -> Result<Option<Value>, WrongType> {
        cell(self, column)
    }
}

fn cell<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<Option<T>, WrongType> {
    row.try_get(column).map_err(|_| WrongType)
}

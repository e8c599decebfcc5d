//! Cells of a SQLite row. SQLite columns hold any type; a value of another type than the schema's
//! is an error here.

use std::net::IpAddr;

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{FromSql, ValueRef};
use serde_json::Value;
use uuid::Uuid;

use crate::store::record::{Record, WrongType};

/// Columns of [`record::user`](crate::store::record::user), from the table under the name `u`.
macro_rules! user_columns {
    () => {
        concat!(
            $crate::store::record::own_columns_of_user!(),
            ", (SELECT json_group_array(json_object('id', hex(f.id), 'kind', f.kind, \
               'friendly_name', f.friendly_name, 'verified_at', f.verified_at, \
               'last_challenged_at', f.last_challenged_at, 'created_at', f.created_at, \
               'updated_at', f.updated_at)) \
             FROM factors AS f WHERE f.user_id = u.id)"
        )
    };
}

/// Columns of [`record::owner`](crate::store::record::owner), from the table under the name `u`.
macro_rules! owner_columns {
    () => {
        concat!(
            $crate::store::sqlite::record::user_columns!(),
            ", ",
            $crate::store::record::columns_of_owner!()
        )
    };
}

pub(super) use {owner_columns, user_columns};

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

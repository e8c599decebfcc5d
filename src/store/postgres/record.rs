//! Cells of a PostgreSQL row.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use crate::store::record::{Record, WrongType};

/// Columns of [`record::user`](crate::store::record::user), from the table under the name `u`.
macro_rules! user_columns {
    () => {
        concat!(
            $crate::store::record::own_columns_of_user!(),
            ", (SELECT coalesce(json_agg(json_build_object('id', f.id, 'kind', f.kind, \
               'friendly_name', f.friendly_name, 'verified_at', f.verified_at, \
               'last_challenged_at', f.last_challenged_at, 'created_at', f.created_at, \
               'updated_at', f.updated_at)), '[]') \
             FROM factors AS f WHERE f.user_id = u.id)"
        )
    };
}

/// Columns of [`record::owner`](crate::store::record::owner), from the table under the name `u`.
macro_rules! owner_columns {
    () => {
        concat!(
            $crate::store::postgres::record::user_columns!(),
            ", ",
            $crate::store::record::columns_of_owner!()
        )
    };
}

pub(super) use {owner_columns, user_columns};

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

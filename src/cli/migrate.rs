//! `portcullis migrate`: brings the database schema up to date.

use super::{Context, Failure};
use crate::clock::Clock;
use crate::store::Store;

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let loaded = context.load()?;
    super::runtime()?.block_on(async {
        let store = Store::open(&loaded.config.storage, &loaded.config.secrets)?;
        let migrated = store.migrate().await?;
        for name in &migrated.applied {
            println!("applied {name}");
        }
        let made = store.make_event_partitions(Clock::system().now()).await?;
        for name in &made {
            println!("made {name}");
        }
        for name in store.drop_empty_event_partitions(Clock::system().now()).await? {
            println!("dropped {name}, which was empty");
        }
        println!("{}: schema version {}", store.describe(), migrated.to);
        Ok(())
    })
}

//! What is stored of one user, as JSON.

use std::io::Write as _;

use crate::auth::shapes;
use crate::cli::{Admin, Failure};
use crate::model::EventKind;

/// Events that are read at a time.
const PAGE: u32 = 1_000;

/// Prints one JSON object, event by event, as there may be many.
pub(super) async fn data(admin: &Admin, user: &str) -> Result<(), Failure> {
    let user = admin.find_user(user).await?;
    let event = admin.event(EventKind::UserDataExported, Some(&user.id));
    let sessions = admin.store.kept_sessions_of(&user.id).await?;
    let api_keys = admin.store.api_keys(Some(&user.id)).await?;
    let mut page = admin.store.events_of_user(&user.id, PAGE, None).await?;
    admin.store.record(&[event]).await?;
    let mut out = std::io::stdout().lock();
    let broken = |error| Failure::failed("the data cannot be written", &error);
    let shown_user = shapes::user(&user, &admin.config.tokens.audience, admin.clock.now());
    let shown_sessions: Vec<_> = sessions.iter().map(shapes::kept_session).collect();
    let shown_keys: Vec<_> = api_keys.iter().map(shapes::kept_api_key).collect();
    write!(out, "{{\"user\":{shown_user},\"sessions\":{},", array(&shown_sessions))
        .and_then(|()| write!(out, "\"api_keys\":{},\"events\":[", array(&shown_keys)))
        .map_err(broken)?;
    let mut separator = "";
    while !page.is_empty() {
        for stored in &page {
            write!(out, "{separator}\n{}", shapes::event(stored)).map_err(broken)?;
            separator = ",";
        }
        let before = page.last().map(|last| (last.event.at, last.event.id));
        page = if page.len() == PAGE as usize {
            admin.store.events_of_user(&user.id, PAGE, before).await?
        } else {
            Vec::new()
        };
    }
    writeln!(out, "]}}").and_then(|()| out.flush()).map_err(broken)
}

fn array(values: &[serde_json::Value]) -> serde_json::Value {
    serde_json::Value::Array(values.to_vec())
}

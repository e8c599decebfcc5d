//! `portcullis mail`: tries whether letters arrive, as configured, without a running gateway.

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde_json::Value;

use super::{Context, Failure};
use crate::clock::Clock;
use crate::config::{Config, Loaded};
use crate::mail::{Code, Dispatch, Link, Mailer, Outlook};
use crate::model::{Email, JsonObject, Template, uuid_v7};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Send a letter and say what became of it
    #[command(
        after_help = "Examples:\n  portcullis mail test ann@example.com\n  portcullis mail test ann@example.com --letter recovery   # see your own text\n\nLinks and codes in it work nowhere. Exit code: 0 the letter was taken, 1 it was not."
    )]
    Test {
        /// Whom to send it to
        address: Email,
        /// Which letter to send, with sample values
        #[arg(long, default_value = "test", value_parser = kinds())]
        letter: Template,
    },
}

fn kinds() -> impl clap::builder::TypedValueParser<Value = Template> {
    PossibleValuesParser::new(Template::ALL.map(Template::name))
        .try_map(|name| Template::from_name(&name).ok_or("there is no such letter"))
}

pub(super) fn run(context: &Context, args: Args) -> Result<(), Failure> {
    let Command::Test { address, letter } = args.command;
    let Loaded { config, sources, .. } = context.load()?;
    let mailer = Mailer::compile(&config).map_err(|problems| sources.report(&problems))?;
    if !mailer.is_on() {
        return Err(Failure::usage("no letters leave: mail.transport is \"none\""));
    }
    let now = Clock::system().now();
    let letter = sample(&config, address, letter, now);
    match super::runtime()?.block_on(mailer.send(&letter, now)) {
        Ok(receipt) => {
            println!("{} has taken the letter: {}", receipt.by, receipt.said);

            Ok(())
        }
        Err(error) => {
            let outlook = match error.outlook {
                Outlook::Later => "the fault is not this letter's",
                Outlook::Never => "trying it again would not help",
            };
            Err(Failure::refused(format!("{error}: {} ({outlook})", error.said())))
        }
    }
}

/// A letter as its reader would get it, but for what is secret in it.
fn sample(config: &Config, to: Email, kind: Template, now: jiff::Timestamp) -> Dispatch {
    let site = config.site_url().unwrap_or_default();
    let link = Link {
        url: format!("{site}{}/verify?token=sample", config.server.auth_prefix),
        token_hash: "sample".to_owned(),
        lifetime: std::time::Duration::from_hours(1),
    };
    let code = Code { digits: "000000".to_owned(), lifetime: std::time::Duration::from_mins(10) };
    let other = || kind.has_addresses().then(|| "somebody@example.com".to_owned());
    Dispatch {
        id: uuid_v7(now),
        kind,
        link: kind.has_link().then_some(link),
        code: kind.has_code().then_some(code),
        redirect_to: None,
        old_email: other(),
        new_email: other(),
        data: JsonObject::new(),
        user: Value::from(JsonObject::from_iter([("email".to_owned(), to.address().into())])),
        to,
    }
}

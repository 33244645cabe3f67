//! `dfs token`: what lets newcomers in.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use wire::cluster::{Access, TokenPurpose};

use super::{
    failure::{Failure, Line},
    invocation::Invocation,
    screen::say,
    text::number::span,
};

/// Longest life of a token that the cluster grants.
const LIFETIME_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Arguments of `dfs token`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  dfs token create --for client")]
pub(crate) struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
}

/// What to do about tokens.
#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token: it lets in one node or one client, once
    Create(CreateArguments),
}

/// Arguments of `dfs token create`.
#[derive(Args, Debug)]
#[command(after_help = "\
The token is the only line on standard output. Whoever has it is let in: hand
it over as you would a password.

Examples:
  dfs token create --for client
    then, on the client:
      dfs login TOKEN
  dfs token create --for node --expires 10m
    then, on the new node:
      dfs-node join --data DIR --listen IP:PORT --token TOKEN
      dfs-node run --data DIR")]
struct CreateArguments {
    /// Whom it lets in
    #[arg(long = "for", value_name = "WHOM")]
    purpose: Whom,
    /// The client may only read
    #[arg(long)]
    read_only: bool,
    /// How long it can be used: 10m, 24h, 7d; at most 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_lifetime)]
    expires: Duration,
    /// As a JSON object
    #[arg(long)]
    json: bool,
}

/// Whom a token lets in.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Whom {
    /// A storage node, by dfs-node join
    Node,
    /// A client, by dfs login
    Client,
}

/// Makes a token.
pub(crate) async fn run(invocation: &Invocation, arguments: TokenArguments) -> Result<(), Failure> {
    let TokenCommand::Create(arguments) = arguments.command;
    let purpose = match (arguments.purpose, arguments.read_only) {
        (Whom::Client, true) => TokenPurpose::Client(Access::ReadOnly),
        (Whom::Client, false) => TokenPurpose::Client(Access::ReadWrite),
        (Whom::Node, false) => TokenPurpose::Node,
        (Whom::Node, true) => return Err(Line::new("--read-only is for clients: a node stores").usage()),
    };
    let token = invocation
        .with_cluster(async |cluster| {
            let failed = |error| Line::new("cannot make a token").because(&error).failed();
            cluster.create_token(purpose, arguments.expires).await.map_err(failed)
        })
        .await?;
    if arguments.json {
        return invocation.screen.print_json(&json!({ "token": token, "expires_s": arguments.expires.as_secs() }));
    }
    invocation.screen.print(&format!("{token}\n"))?;
    if invocation.screen.width.is_some() {
        let how = match arguments.purpose {
            Whom::Node => "dfs-node join --data DIR --listen IP:PORT --token TOKEN",
            Whom::Client => "dfs login TOKEN",
        };
        say(&format!("use it once, within {}, with: {how}", span(arguments.expires)));
    }
    Ok(())
}

/// A number with `s`, `m`, `h` or `d`.
fn parse_lifetime(text: &str) -> Result<Duration, &'static str> {
    const WRONG: &str = "a time is a number with s, m, h or d: 90s, 10m, 24h, 7d";
    let unit_s = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        Some(_) | None => return Err(WRONG),
    };
    let number = text.get(..text.len() - 1).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(WRONG);
    }
    let lifetime = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_s)).map(Duration::from_secs);
    match lifetime {
        Some(Duration::ZERO) => Err("a token must live for a second at least"),
        Some(lifetime) if lifetime <= LIFETIME_MAX => Ok(lifetime),
        Some(_) | None => Err("a token lives for 30 days at most"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::parse_lifetime;

    #[test]
    fn a_lifetime_has_a_unit_and_ends_within_30_days() {
        assert_eq!(parse_lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_lifetime("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(parse_lifetime("720h"), Ok(Duration::from_secs(2_592_000)));
        assert_eq!(parse_lifetime("30d"), Ok(Duration::from_secs(2_592_000)));
        for text in ["", "h", "10", "0s", "31d", "1.5h", "-1h", "+1h", "99999999999999999999d", "1ü"] {
            assert!(parse_lifetime(text).is_err(), "{text}");
        }
    }
}

//! `dfs mkdir`.

use std::ffi::OsString;

use clap::Args;
use wire::namespace::Mode;

use super::{
    failure::Failure,
    invocation::{Invocation, each_path, parse_paths},
};

/// Arguments of `dfs mkdir`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  dfs mkdir /photos
  dfs mkdir -p /photos/2026/11   with those above, and no error if it exists
  dfs mkdir -m 0750 /private")]
pub(crate) struct MkdirArguments {
    /// Directories to make
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
    /// Make missing directories above as well; no error if it exists
    #[arg(short, long)]
    parents: bool,
    /// Permission bits of a new directory, in octal [default: 0777 less the umask]
    #[arg(short, long, value_name = "MODE", value_parser = parse_mode)]
    mode: Option<Mode>,
}

/// Permission bits in octal.
fn parse_mode(text: &str) -> Result<Mode, &'static str> {
    match u16::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o7777 && !text.starts_with('+') => Ok(Mode::new(bits)),
        Ok(_) | Err(_) => Err("a mode is an octal number from 0 to 7777"),
    }
}

/// Makes directories.
pub(crate) async fn run(invocation: &Invocation, arguments: MkdirArguments) -> Result<(), Failure> {
    let paths = parse_paths("mkdir", &arguments.paths)?;
    let usual = 0o777 & !invocation.environment.umask;
    let mode = arguments.mode.unwrap_or(Mode::new(usual));
    // Something is to go into them.
    let parents = Mode::new(usual | 0o300);
    invocation
        .with_files(async |files| {
            each_path(invocation, "mkdir", &paths, async |path| {
                let made = if arguments.parents {
                    files.create_dir_all(path, mode, parents).await
                } else {
                    files.create_dir(path, mode).await
                };
                made.map(drop)
            })
            .await
        })
        .await
}

#[cfg(test)]
mod tests {
    use wire::namespace::Mode;

    use super::parse_mode;

    #[test]
    fn a_mode_is_octal_and_twelve_bits() {
        assert_eq!(parse_mode("0755"), Ok(Mode::new(0o755)));
        assert_eq!(parse_mode("1777"), Ok(Mode::new(0o1777)));
        for text in ["", "8", "10000", "-1", "+7", "rwx"] {
            assert!(parse_mode(text).is_err(), "{text}");
        }
    }
}

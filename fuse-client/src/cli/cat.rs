//! `dfs cat`: files to standard output.

use std::ffi::OsString;

use clap::Args;
use fuse_client::{FilePath, Namespace, NamespaceError, download};

use super::{
    failure::Failure,
    invocation::{Invocation, parse_paths, tell},
};

/// Arguments of `dfs cat`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every byte was checked against its BLAKE3 hash before it is written.

Examples:
  dfs cat /notes.txt
  dfs cat /backup.tar | tar t")]
pub(crate) struct CatArguments {
    /// Files, one after the other
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
}

/// Why a file was not written out.
enum CatError {
    /// It could not be read: the next one may be.
    Read(NamespaceError),
    /// Nobody takes the bytes.
    Write(Failure),
}

/// Writes files out.
pub(crate) async fn run(invocation: &Invocation, arguments: CatArguments) -> Result<(), Failure> {
    let paths = parse_paths("read", &arguments.paths)?;
    invocation
        .with_files(async |files| {
            let mut failed = false;
            for path in &paths {
                match cat(invocation, files, path).await {
                    Ok(()) => {}
                    Err(CatError::Write(failure)) => return Err(failure),
                    Err(CatError::Read(error)) => {
                        failed = true;
                        tell(invocation, "read", path, &error)?;
                    }
                }
            }
            if failed { Err(Failure::Reported) } else { Ok(()) }
        })
        .await
}

async fn cat(invocation: &Invocation, files: &Namespace, path: &FilePath) -> Result<(), CatError> {
    let mut reader = download::open(files, path).await.map_err(CatError::Read)?;
    while let Some(bytes) = reader.next().await.map_err(CatError::Read)? {
        // The lock on standard output is not held while the next bytes are fetched.
        let mut page = invocation.screen.page();
        page.push(&bytes).and_then(|()| page.finish()).map_err(CatError::Write)?;
    }
    Ok(())
}

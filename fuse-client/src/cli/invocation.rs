//! What every command is given, and how it gets at the cluster.

use std::{ffi::OsString, os::unix::ffi::OsStrExt};

use fuse_client::{
    Caller, Cluster, ClusterConfig, ClusterError, FilePath, Namespace, NamespaceError, PathError, Profile,
    ProfilePlaces,
};
use wire::namespace::OpError;

use super::{
    environment::Environment,
    failure::{Failure, Line, with_causes},
    screen::Screen,
    seeds,
    text::quote::quoted,
};

/// One run of the command.
#[derive(Debug)]
pub(crate) struct Invocation {
    /// Environment and identity.
    pub(crate) environment: Environment,
    /// Where to write.
    pub(crate) screen: Screen,
    /// `--profile`, if given.
    pub(crate) profile: Option<OsString>,
}

/// Profile used if none is named.
const DEFAULT_PROFILE: &str = "default";

impl Invocation {
    /// Where profiles are looked for.
    pub(crate) fn profile_places(&self) -> ProfilePlaces {
        self.environment.profile_places()
    }

    /// Name or folder of the profile.
    pub(crate) fn profile_name(&self) -> OsString {
        self.profile.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| DEFAULT_PROFILE.into())
    }

    /// Connects to the cluster of the profile.
    pub(crate) async fn cluster(&self) -> Result<Cluster, Failure> {
        self.try_cluster().await.map_err(|error| Line::new("cannot reach the cluster").because(&error).failed())
    }

    /// The same, for who looks at why it cannot be reached.
    pub(crate) async fn try_cluster(&self) -> Result<Cluster, ClusterError> {
        let folder = self.profile_places().find(&self.profile_name())?;
        let profile = Profile::load(&folder)?;
        let cluster = Cluster::connect(&profile, ClusterConfig::default()).await?;
        seeds::follow(&cluster, &folder);
        Ok(cluster)
    }

    /// Files of the cluster, for the user who runs the command.
    pub(crate) async fn files(&self) -> Result<Namespace, Failure> {
        let Environment { uid, gid, groups, .. } = &self.environment;
        let caller = Caller { uid: *uid, gid: *gid, groups: groups.clone() };
        Ok(Namespace::new(self.cluster().await?, caller))
    }

    /// Runs `work` on the files of the cluster, for the user who runs the command, and ends the session whatever came of it.
    pub(crate) async fn with_files<T>(
        &self,
        work: impl AsyncFnOnce(&Namespace) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let namespace = self.files().await?;
        let outcome = work(&namespace).await;
        namespace.finish().await;
        outcome
    }

    /// Runs `work` on the cluster and closes the connections whatever came of it.
    pub(crate) async fn with_cluster<T>(
        &self,
        work: impl AsyncFnOnce(&Cluster) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let cluster = self.cluster().await?;
        let outcome = work(&cluster).await;
        cluster.close().await;
        outcome
    }
}

/// A path in the store, as given on the command line. `action` is what was to be done with it.
pub(crate) fn parse_path(action: &str, path: &OsString) -> Result<FilePath, Failure> {
    if path.is_empty() {
        // Of a variable that is not set, most likely: it must not mean everything.
        let line = Line::new(format!("cannot {action} ''")).why("the path is empty");
        return Err(line.advice("the root directory is /").failed());
    }
    FilePath::parse(path.as_bytes()).map_err(|error| {
        let line = Line::new(format!("cannot {action} {}", quoted(path.as_bytes())));
        // The path stands there already; what is wrong with one of its names is the news.
        match &error {
            PathError::Name { source, .. } => line.because(source).failed(),
            PathError::TooLong { .. } => line.because(&error).failed(),
        }
    })
}

/// Several of them.
pub(crate) fn parse_paths(action: &str, paths: &[OsString]) -> Result<Vec<FilePath>, Failure> {
    paths.iter().map(|path| parse_path(action, path)).collect()
}

/// The line for a failed file operation: `cannot ACTION PATH: why`.
pub(crate) fn cannot(action: &str, path: &FilePath, error: &NamespaceError) -> Line {
    let line = Line::new(format!("cannot {action} {}", quoted(&path.to_bytes())));
    let reason = with_causes(error);
    // The library names the path as well; once is enough.
    let line = line.why(reason.strip_prefix(&format!("{path}: ")).unwrap_or(&reason));
    let NamespaceError::Op { source, .. } = error else {
        return line;
    };
    match (action.split(' ').next().unwrap_or(action), source) {
        ("remove" | "copy", OpError::IsDirectory) => line.advice("use -r"),
        ("move" | "copy", OpError::Invalid) => line.advice("a directory cannot go into itself"),
        ("link", OpError::NotPermitted) => line.advice("a directory takes no hard links; use -s"),
        ("mkdir", OpError::NotFound) => line.advice("use -p"),
        _ => line,
    }
}

/// Reports a failure that does not end the command, unless it is one of the cluster: what that could not answer once, it
/// will not answer for the next path either, and each question takes its deadline.
pub(crate) fn tell(
    invocation: &Invocation,
    action: &str,
    path: &FilePath,
    error: &NamespaceError,
) -> Result<(), Failure> {
    let line = cannot(action, path, error);
    if matches!(error, NamespaceError::Cluster(_)) {
        return Err(line.failed());
    }
    invocation.screen.report(&line);
    Ok(())
}

/// Goes through `paths` with `work`, reports each failure in its line, and fails in the end if one did.
pub(crate) async fn each_path(
    invocation: &Invocation,
    action: &str,
    paths: &[FilePath],
    mut work: impl AsyncFnMut(&FilePath) -> Result<(), NamespaceError>,
) -> Result<(), Failure> {
    let mut failed = false;
    for path in paths {
        if let Err(error) = work(path).await {
            failed = true;
            tell(invocation, action, path, &error)?;
        }
    }
    if failed { Err(Failure::Reported) } else { Ok(()) }
}

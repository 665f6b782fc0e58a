//! Log output: lines on stderr, which the service manager keeps. `VFSD_LOG` sets the filter.

use tracing_subscriber::EnvFilter;

/// What is logged unless `VFSD_LOG` says otherwise: our own decisions, and what the libraries take for an error.
const FILTER: &str = "info,openraft=error,fuser=error";

/// Starts logging. Under systemd the time is left to the journal.
///
/// # Errors
/// If `VFSD_LOG` is no filter, or logging was started before.
pub fn start() -> anyhow::Result<()> {
    let filter = match std::env::var("VFSD_LOG") {
        Ok(text) => EnvFilter::try_new(&text)
            .map_err(|error| anyhow::anyhow!("VFSD_LOG={text} is no filter: {error}"))?,
        Err(_) => EnvFilter::new(FILTER),
    };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    let started = if std::env::var_os("JOURNAL_STREAM").is_some() {
        lines.without_time().try_init()
    } else {
        lines.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}

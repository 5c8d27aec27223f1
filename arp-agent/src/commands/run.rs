//! `arp-agent run`: the agent from its start to its end.

use super::Exit;
use crate::agent::Agent;
use crate::capabilities::missing_capabilities;
use crate::config::sources::{SourcedSettings, Sources};
use crate::control::{Request, run_dir::RunDir, server};
use crate::metrics::http;
use crate::{descriptors, logging};
use anyhow::{Context as _, bail};
use caps::CapSet;
use nix::libc;
use nix::sys::stat::{Mode, umask};
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Runs the agent until SIGTERM, SIGINT or another signal that ends programs.
///
/// # Errors
/// Those of `Agent::start` and `Agent::run`; the configuration is bad; the run directory cannot be used.
pub fn run(sources: Sources) -> anyhow::Result<Exit> {
    let settings = sources.read()?;
    if let Err(error) = settings.need_interfaces() {
        eprintln!("arp-agent: {error:#}");
        return Ok(Exit::Usage);
    }
    logging::set(settings.options.log_level, settings.options.log_format);
    settings.warnings.iter().for_each(|warning| log::warn!("{warning}"));
    need_capabilities()?;
    // Nothing that the agent makes is for other users, whatever umask it was started with.
    umask(Mode::from_bits_truncate(0o077));
    descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(settings, sources))?;
    Ok(Exit::Ok)
}

async fn serve(settings: SourcedSettings, sources: Sources) -> anyhow::Result<()> {
    // Before anything is made that a signal could leave behind.
    let mut signals = Signals::new().context("handling signals failed")?;
    let run_dir = RunDir::take(&settings.options.run_dir)?;
    let listener = server::listen(&run_dir.socket())?;
    // A port in use is found before anything is attached.
    let http = http::bind(&settings.options.listen_address)?;
    let mut agent = Agent::start(settings, sources)?;
    let (requests, receiver) = mpsc::channel(8);
    tokio::spawn(server::accept(listener, requests.clone()));
    http::serve(http, requests.clone(), agent.activity())?;
    let stop = async move {
        let reload = || {
            log::info!("SIGHUP received: the agent reads its configuration again");
            // The log tells how it ended. If the queue is full, one of those before may be the same; it is told.
            if requests.try_send((Request::Reload, oneshot::channel().0)).is_err() {
                log::warn!("too many requests are waiting: SIGHUP is ignored");
            }
        };
        let name = signals.next(reload).await;
        log::info!("{name} received: the agent ends, and frames pass to the kernel");
    };
    let ended = agent.run(receiver, stop).await;
    agent.withdraw();
    ended
}

/// The signals that end the agent. They would without a handler too; with one, the agent first removes what it has
/// made.
const ENDING: [(i32, &str); 7] = [
    (libc::SIGTERM, "SIGTERM"),
    (libc::SIGINT, "SIGINT"),
    (libc::SIGQUIT, "SIGQUIT"),
    (libc::SIGABRT, "SIGABRT"),
    (libc::SIGXCPU, "SIGXCPU"),
    (libc::SIGTRAP, "SIGTRAP"),
    (libc::SIGSYS, "SIGSYS"),
];

/// Signals that the agent ignores. Without a handler they would end it, and leave its socket and its tc filters behind.
const IGNORED: [i32; 10] = [
    libc::SIGPIPE,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXFSZ,
];

/// Handlers for all signals that would end a process and that it can handle, except those of its own faults (SIGSEGV,
/// SIGBUS, SIGILL, SIGFPE).
struct Signals {
    ending: Vec<(Signal, &'static str)>,
    hang_up: Signal,
}

impl Signals {
    /// Installs the handlers. To be called inside the tokio runtime.
    fn new() -> std::io::Result<Self> {
        // The handler stays when what is returned here is dropped.
        for number in IGNORED.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX()) {
            drop(signal(SignalKind::from_raw(number))?);
        }
        let handled = |&(number, name)| Ok((signal(SignalKind::from_raw(number))?, name));
        Ok(Signals {
            ending: ENDING.iter().map(handled).collect::<std::io::Result<_>>()?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal that ends the agent; gives its name. Calls `reload` for each SIGHUP until then.
    async fn next(&mut self, reload: impl Fn()) -> &'static str {
        std::future::poll_fn(|context| {
            while let Poll::Ready(Some(())) = self.hang_up.poll_recv(context) {
                reload();
            }
            let came =
                |(signal, name): &mut (Signal, &'static str)| signal.poll_recv(context).is_ready().then_some(*name);
            self.ending.iter_mut().find_map(came).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

fn need_capabilities() -> anyhow::Result<()> {
    let held = caps::read(None, CapSet::Effective).context("reading the process's capabilities failed")?;
    let missing = missing_capabilities(&held);
    if !missing.is_empty() {
        bail!(
            "{} missing: loading and attaching the program needs {}; run as root, or let systemd give \
             AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON",
            missing.join(" and "),
            if missing.len() == 1 { "it" } else { "them" },
        );
    }
    Ok(())
}

//! `arp-agent run`.

use super::Exit;
use crate::agent::{Agent, Options};
use crate::cli;
use crate::control::{PATIENCE, Request, Response, RunDir};
use crate::dataplane::choice::Wish;
use anyhow::{Context as _, bail};
use aya_log::EbpfLogger;
use caps::{CapSet, Capability};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const DEFAULT_REREAD_INTERVAL: u64 = 250;
const DEFAULT_LEASE: u64 = 1000;

/// A configuration file: the command line's options by name.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    #[serde(default)]
    interface: Vec<String>,
    hook: Option<cli::Hook>,
    xdp_mode: Option<cli::XdpMode>,
    tc_attach: Option<cli::TcAttach>,
    run_dir: Option<PathBuf>,
    reread_interval: Option<u64>,
    sysctl_hook: Option<cli::SysctlHook>,
    lease: Option<u64>,
}

type Requests = mpsc::Sender<(Request, oneshot::Sender<Response>)>;

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// See [`Agent::start`] and [`Agent::run`]; also bad configuration and a run directory that cannot be had.
pub fn run(arguments: &cli::Run, verbose: u8) -> anyhow::Result<Exit> {
    let config = match &arguments.config {
        Some(path) => read_config(path)?,
        None => Config::default(),
    };
    let interfaces = if arguments.interfaces.is_empty() { config.interface } else { arguments.interfaces.clone() };
    if interfaces.is_empty() {
        bail!("no interface to attach to: give --interface, or `interface = [\"cali*\"]` in the configuration file");
    }
    let options = Options {
        interfaces,
        wish: Wish {
            hook: arguments.hook.or(config.hook).unwrap_or_default(),
            xdp_mode: arguments.xdp_mode.or(config.xdp_mode).unwrap_or_default(),
            tc_attach: arguments.tc_attach.or(config.tc_attach).unwrap_or_default(),
        },
        reread_interval: Duration::from_millis(
            arguments.reread_interval.or(config.reread_interval).unwrap_or(DEFAULT_REREAD_INTERVAL),
        ),
        lease: Duration::from_millis(arguments.lease.or(config.lease).unwrap_or(DEFAULT_LEASE)),
        sysctl_hook: arguments.sysctl_hook.or(config.sysctl_hook).unwrap_or_default() == cli::SysctlHook::Auto,
        trace: verbose >= 2,
    };
    if let Some(contradiction) = options.wish.contradiction() {
        bail!("{contradiction}");
    }
    need_capabilities()?;
    let run_dir = arguments.run_dir.as_deref().or(config.run_dir.as_deref());
    let run_dir = RunDir::take(run_dir.unwrap_or(Path::new(cli::DEFAULT_RUN_DIR)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(options, &run_dir))?;
    Ok(Exit::Ok)
}

async fn serve(options: Options, run_dir: &RunDir) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let trace = options.trace;
    let socket = run_dir.socket();
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("{}: cannot be listened on", socket.display()))?;
    let mut agent = Agent::start(options)?;
    if trace {
        let logger = EbpfLogger::init(agent.bpf_mut().ebpf_mut()).context("reading the program's log failed")?;
        tokio::spawn(print_log(logger));
    }
    let (requests, receiver) = mpsc::channel(8);
    tokio::spawn(accept(listener, requests));
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => log::info!("SIGTERM: detaching"),
            _ = interrupt.recv() => log::info!("SIGINT: detaching"),
        }
    };
    let ended = agent.run(receiver, stop).await;
    agent.withdraw();
    ended
}

async fn accept(listener: UnixListener, requests: Requests) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, requests.clone()))),
            Err(error) => {
                // Descriptors may run out for a while; the agent's own work needs none.
                log::warn!("the control socket took no client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, requests: Requests) {
    if let Ok(Err(error)) = timeout(PATIENCE, answer(stream, requests)).await {
        log::debug!("a client of the control socket left: {error:#}");
    }
}

async fn answer(stream: UnixStream, requests: Requests) -> anyhow::Result<()> {
    /// Longer than any request.
    const LONGEST: u64 = 4096;
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(tokio::io::AsyncReadExt::take(read, LONGEST));
    limited.read_line(&mut line).await?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => {
            let (reply, response) = oneshot::channel();
            requests.send((request, reply)).await.context("the agent is ending")?;
            response.await?
        }
        Err(error) => Response::Error(format!("not a request of this version: {error}")),
    };
    let mut document = serde_json::to_vec(&response)?;
    document.push(b'\n');
    write.write_all(&document).await?;
    Ok(())
}

/// The ring buffer is looked at in turns: waiting on its descriptor would need unsafe code, and tracing is for people.
async fn print_log(mut logger: EbpfLogger<&'static dyn log::Log>) {
    let mut turns = tokio::time::interval(Duration::from_millis(20));
    loop {
        turns.tick().await;
        logger.flush();
    }
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("configuration file {}: cannot be read", path.display()))?;
    let config: Config = toml::from_str(&text).with_context(|| format!("configuration file {}", path.display()))?;
    let ranges = [("reread-interval", config.reread_interval, 10..=60_000), ("lease", config.lease, 50..=60_000)];
    for (name, value, range) in ranges {
        if let Some(value) = value.filter(|value| !range.contains(value)) {
            bail!(
                "configuration file {}: {name} = {value} is not in {}..={} ms",
                path.display(),
                range.start(),
                range.end()
            );
        }
    }
    Ok(config)
}

fn need_capabilities() -> anyhow::Result<()> {
    let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN];
    let held = caps::read(None, CapSet::Effective).context("reading the process's capabilities failed")?;
    // CAP_SYS_ADMIN includes CAP_BPF.
    let missing: Vec<String> = needed
        .into_iter()
        .filter(|capability| {
            let included = *capability == Capability::CAP_BPF && held.contains(&Capability::CAP_SYS_ADMIN);
            !held.contains(capability) && !included
        })
        .map(|capability| capability.to_string())
        .collect();
    if !missing.is_empty() {
        bail!(
            "{} missing: loading and attaching the program needs it; run as root, or let systemd give \
             AmbientCapabilities=CAP_BPF CAP_NET_ADMIN",
            missing.join(" and ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> anyhow::Result<Config> {
        let dir = std::env::temp_dir().join(format!(
            "arp-agent-config-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&dir, text)?;
        let config = read_config(&dir);
        std::fs::remove_file(&dir)?;
        config
    }

    #[test]
    fn a_configuration_file_names_the_options() {
        let config = config(
            "interface = [\"cali*\"]\nreread-interval = 50\nhook = \"tc\"\nxdp-mode = \"skb\"\ntc-attach = \"tcx\"\nrun-dir = \"/run/x\"",
        )
        .unwrap();
        assert_eq!(config.interface, ["cali*"]);
        assert_eq!(config.reread_interval, Some(50));
        assert_eq!((config.hook, config.xdp_mode), (Some(cli::Hook::Tc), Some(cli::XdpMode::Skb)));
        assert_eq!(config.tc_attach, Some(cli::TcAttach::Tcx));
        assert_eq!(config.run_dir.as_deref(), Some(Path::new("/run/x")));
    }

    #[test]
    fn a_configuration_file_s_mistakes_are_named() {
        for (text, named) in [
            ("interfaces = []", "interfaces"),
            ("hook = \"netkit\"", "netkit"),
            ("lease = 1", "lease = 1"),
            ("lease = \"x\"", "lease"),
        ] {
            let error = format!("{:#}", config(text).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }
}

//! The image, run as the manifests say: their capabilities, mounts and limits, and no others.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Lab, needs_root, topology, under_traffic, wait_until};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{VERSION, debian_arch, output, packages, repository, run};

/// podman wants one cgroup tree, which the machine may have divided; and keeps all in a folder of the test's.
const PODMAN: &str = r#"umount -R -l /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup || exit
folder=$1; shift
exec podman --cgroup-manager cgroupfs --storage-driver vfs --runtime crun --events-backend none \
    --root "$folder/storage" --runroot "$folder/run" --tmpdir "$folder/tmp" "$@""#;
const NAME: &str = "agent";

/// A container, and where podman keeps it.
struct Container {
    files: TempDir,
    /// A cgroup with the limit of memory.
    cgroup: Option<PathBuf>,
}

impl Container {
    fn podman(&self, arguments: &[String]) -> Result<Output> {
        let mut command = Command::new("unshare");
        // It joins the cgroup before it starts anything.
        let join = "[ -z \"$1\" ] || echo $$ >\"$1/cgroup.procs\" || exit; shift; ";
        command.args(["--mount", "--propagation", "private", "sh", "-c", &format!("{join}{PODMAN}"), "sh"]);
        command.arg(self.cgroup.as_deref().unwrap_or(Path::new(""))).arg(self.files.path());
        run(command.args(arguments))
    }

    fn must(&self, arguments: &[&str]) -> Result<String> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let said = self.podman(&arguments)?;
        ensure!(said.status.success(), "podman {arguments:?}: {said:?}\n{}", self.log());
        Ok(String::from_utf8_lossy(&said.stdout).into_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.podman(&["rm", "--force", "--time", "0", NAME].map(str::to_owned));
        if let Some(cgroup) = &self.cgroup {
            let _ = fs::remove_dir(cgroup);
        }
    }
}

/// The pod of the manifests' base.
fn pod() -> Result<Value> {
    // `annotate --local` asks no cluster, and says as JSON what it was given as YAML.
    let script = "kubectl kustomize deploy/kubernetes/base | kubectl annotate --local -f - by=test -o json";
    let all = output(Command::new("sh").args(["-c", script]).current_dir(repository()))?;
    let documents = serde_json::Deserializer::from_str(&all).into_iter::<Value>();
    let documents: Vec<Value> = documents.collect::<serde_json::Result<_>>().context("kubectl's JSON")?;
    let set = documents.iter().find(|document| document["kind"] == "DaemonSet");
    Ok(set.with_context(|| format!("a DaemonSet in {all:?}; is there a kubectl?"))?["spec"]["template"]["spec"].clone())
}

/// The runtime's own seccomp profile with `bpf` allowed, as deploy/kubernetes/overlays/seccomp wants it where the runtime's
/// allows it only with CAP_SYS_ADMIN.
fn seccomp(to: &Path) -> Result<()> {
    let profile = "/usr/share/containers/seccomp.json";
    let mut profile: Value = serde_json::from_str(&fs::read_to_string(profile).with_context(|| profile.to_owned())?)?;
    let rules = profile["syscalls"].as_array_mut().context("a profile with rules")?;
    for rule in rules.iter_mut() {
        rule["names"].as_array_mut().context("a rule with names")?.retain(|name| name != "bpf");
    }
    rules.push(json!({ "names": ["bpf"], "action": "SCMP_ACT_ALLOW", "args": [] }));
    Ok(fs::write(to, profile.to_string())?)
}

/// The numbers of capabilities, as masks of /proc have them.
fn mask(capabilities: &[&str]) -> Result<u64> {
    let bit = |name: &&str| match *name {
        "NET_ADMIN" => Ok(12),
        "PERFMON" => Ok(38),
        "BPF" => Ok(39),
        other => bail!("this test does not know the capability {other}"),
    };
    capabilities.iter().map(|name| bit(name).map(|bit: u32| 1 << bit)).sum()
}

/// A cgroup with a limit of memory, wherever this machine has that controller.
fn limited(name: &str, bytes: u64) -> Result<PathBuf> {
    let (tree, file) = match Path::new("/sys/fs/cgroup/memory") {
        divided if divided.is_dir() => (divided, "memory.limit_in_bytes"),
        _ => (Path::new("/sys/fs/cgroup"), "memory.max"),
    };
    let cgroup = tree.join(name);
    fs::create_dir(&cgroup).with_context(|| format!("making {}", cgroup.display()))?;
    fs::write(cgroup.join(file), bytes.to_string()).with_context(|| format!("limiting {}", cgroup.display()))?;
    Ok(cgroup)
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What `podman run` is told, of what the manifests say.
fn arguments(pod: &Value, files: &Path, lab: &Lab) -> Result<Vec<String>> {
    let container = &pod["containers"][0];
    let security = &container["securityContext"];
    ensure!(security["capabilities"]["drop"] == json!(["ALL"]) && security["privileged"] == false, "{security}");
    ensure!(security["allowPrivilegeEscalation"] == false && security["readOnlyRootFilesystem"] == true, "{security}");
    ensure!(pod["hostNetwork"] == true && pod.get("hostPID").is_none(), "{pod}");
    let (user, group) = (&security["runAsUser"], &security["runAsGroup"]);
    let mut arguments: Vec<String> =
        ["run", "--detach", "--name", NAME, "--cgroups=disabled", "--read-only", "--read-only-tmpfs=false"]
            .map(str::to_owned)
            .to_vec();
    let log = files.join("log").display().to_string();
    for (option, value) in [
        ("--network", format!("ns:/run/netns/{}", lab.node().name())),
        ("--cap-drop", "all".to_owned()),
        ("--cap-add", strings(&security["capabilities"]["add"]).join(",")),
        ("--security-opt", "no-new-privileges".to_owned()),
        ("--security-opt", format!("seccomp={}", files.join("seccomp.json").display())),
        ("--user", format!("{user}:{group}")),
        ("--log-driver", "k8s-file".to_owned()),
        ("--log-opt", format!("path={log}")),
        // What this machine may raise is less than podman wants.
        ("--ulimit", "nofile=4096:4096".to_owned()),
        ("--ulimit", "nproc=4096:4096".to_owned()),
    ] {
        arguments.extend([option.to_owned(), value]);
    }
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let volume = pod["volumes"].as_array().into_iter().flatten().find(|volume| volume["name"] == mount["name"]);
        let volume = volume.with_context(|| format!("no volume for {mount}"))?;
        let from = match volume["hostPath"]["path"].as_str() {
            Some("/run/arp-agent") => files.join("run-dir"),
            Some("/var/run/netns") => "/run/netns".into(),
            Some(other) => bail!("this test does not know the volume {other}"),
            None => {
                ensure!(volume["configMap"].is_object(), "{volume}");
                repository().join("deploy/kubernetes/base").canonicalize()?
            }
        };
        let access = if mount["readOnly"] == true { "ro" } else { "rw" };
        let propagation = if mount["mountPropagation"] == "HostToContainer" { "rslave" } else { "rprivate" };
        let to = mount["mountPath"].as_str().context("a path")?;
        arguments.extend(["--volume".to_owned(), format!("{}:{to}:{access},{propagation}", from.display())]);
    }
    arguments.push("IMAGE".to_owned());
    arguments.extend(strings(&container["args"]).into_iter().map(str::to_owned));
    Ok(arguments)
}

/// The status of a probe, asked as the kubelet asks.
fn probe(lab: &Lab, probe: &Value) -> Result<String> {
    let get = &probe["httpGet"];
    let (host, path) = (get["host"].as_str().context("a host")?, get["path"].as_str().context("a path")?);
    let address = format!("{host}:{}", get["port"]);
    let mut said = String::new();
    lab.node().run(|| -> Result<()> {
        let Ok(mut stream) = TcpStream::connect(&address) else { return Ok(()) };
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut said)?;
        Ok(())
    })??;
    Ok(said.lines().next().unwrap_or_default().to_owned())
}

#[test]
fn the_image_runs_with_what_the_manifests_grant_and_no_more() -> Result<()> {
    needs_root!();
    let Some(packages) = packages() else { return Ok(()) };
    let lab = topology::calico(1)?;
    let pod = pod()?;
    let spec = &pod["containers"][0];
    let files = tempfile::Builder::new().prefix("arp-image-").tempdir()?;
    fs::create_dir(files.path().join("run-dir"))?;
    seccomp(&files.path().join("seccomp.json"))?;
    let limit = spec["resources"]["limits"]["memory"].as_str().and_then(|limit| limit.strip_suffix("Mi"));
    let limit: u64 = limit.context("a limit of memory in Mi")?.parse()?;
    let mut container = Container { files, cgroup: None };
    container.cgroup = Some(limited(&format!("arp-image-{}", std::process::id()), limit << 20)?);

    let archive = format!("oci-archive:{}", packages.join(format!("arp-agent-{VERSION}-oci.tar")).display());
    let image = container.must(&["pull", "--quiet", &archive])?;
    let inspected = container.must(&["image", "inspect", "--format", "{{.Architecture}} {{.Size}}", image.trim()])?;
    ensure!(inspected.starts_with(debian_arch()), "{inspected}");

    let mut words = arguments(&pod, container.files.path(), &lab)?;
    for word in words.iter_mut().filter(|word| *word == "IMAGE") {
        *word = image.trim().to_owned();
    }
    under_traffic(&lab, "the image", 0, || {
        let started = container.podman(&words)?;
        ensure!(started.status.success(), "podman {words:?}: {started:?}");
        let is_ready = || Ok(probe(&lab, &spec["readinessProbe"])?.contains(" 200 "));
        wait_until(Duration::from_secs(15), is_ready, || format!("the container is ready: {}", container.log()))?;
        for name in ["startupProbe", "livenessProbe"] {
            let said = probe(&lab, &spec[name])?;
            ensure!(said.contains(" 200 "), "{name}: {said}");
        }
        let status = container.must(&["exec", NAME, "/usr/sbin/arp-agent", "status"])?;
        ensure!(status.contains("answering on 1 of 1 interface"), "{status}");

        // What it has is what the manifests say.
        let pid = container.must(&["inspect", "--format", "{{.State.Pid}}", NAME])?;
        let proc = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", pid.trim())).context(file.to_owned());
        let process = proc("status")?;
        let field = |name: &str| {
            let line = process.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').trim().to_owned()
        };
        let wanted = mask(&strings(&spec["securityContext"]["capabilities"]["add"]))?;
        for name in ["CapEff", "CapPrm", "CapBnd"] {
            ensure!(u64::from_str_radix(&field(name), 16)? == wanted, "{process}");
        }
        ensure!(field("NoNewPrivs") == "1" && field("Seccomp") == "2", "{process}");
        let mounts = proc("mounts")?;
        let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).context("a root")?;
        ensure!(root.split(' ').nth(3).is_some_and(|options| options.starts_with("ro")), "{root}");
        let cgroup = container.cgroup.as_deref().context("a cgroup")?;
        let inside = fs::read_to_string(cgroup.join("cgroup.procs"))?;
        ensure!(inside.lines().any(|line| line == pid.trim()), "{pid} is not in {}", cgroup.display());

        container.must(&["stop", "--time", "10", NAME])?;
        let code = container.must(&["inspect", "--format", "{{.State.ExitCode}}", NAME])?;
        ensure!(code.trim() == "0", "it ended with {code}: {}", container.log());
        Ok(())
    })?;
    Ok(())
}

//! The running agent: keeps the maps in sync with the kernel, and the lease alive only while they are.
//!
//! One thread does everything in turn, so that what is trusted is always what was last applied. The order is the
//! safety: before the lease is renewed, every notification that has arrived is applied; whatever casts doubt withdraws
//! the lease first and is looked into second.

mod damping;
mod deviations;
mod doubts;
mod events;
mod figures;
mod flapping;
mod heartbeat;
mod lease;
mod polling;
mod process;
mod protection;
mod proxies;
mod reloading;
mod self_tests;
mod shadow;
mod states;
mod status;
mod supervisor;
mod trace;
mod warnings;

use crate::clock::monotonic_ns;
use crate::config::sources::{SourcedSettings, Sources};
use crate::config::{ArpListeners, Options, ShadowOption, UseSysctlHook};
use crate::control::{Request, Response};
use crate::dataplane::Dataplane as _;
use crate::dataplane::HookKind;
use crate::dataplane::bpf::Bpf;
use crate::dataplane::bpf::programs::Manner;
use crate::deviations::policies::DeviationPolicies;
use crate::event::{Event, IfSet};
use crate::hooks::attachments::Attachments;
use crate::hooks::foreign_tc::ForeignPrograms;
use crate::hooks::link_counters::LinkCounters;
use crate::hooks::moves::Moves;
use crate::hooks::self_test::SelfTests;
use crate::hooks::sysctl::SysctlHook;
use crate::kernel::{Batch, Lost, Notifications, Reader, Reread};
use crate::metrics::http::LoopActivity;
use crate::mirror::snapshot::IFF_UP;
use crate::mirror::{Change, Mirror};
use crate::protection::patterns;
use crate::protection::policies::Policies;
use anyhow::Context as _;
use arp_common::{Reason, Tables as _};
use damping::Damper;
use deviations::Deviations;
use doubts::Doubts;
use events::Events;
use heartbeat::{Heartbeat, Tick};
use lease::{Lease, Redump, Replay};
use protection::Protection;
use proxies::ProxyReadings;
use shadow::Shadow;
use states::States;
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};
use supervisor::Supervisor;
use trace::Traces;

/// How many batches of notifications are applied before other work has its turn.
const BATCHES_AT_ONCE: usize = 64;

/// How often the routes are dumped in a row before they are left for later.
const DUMPS_AT_ONCE: usize = 8;

/// How often the loop turns at least. In sync the heartbeat turns it more often, unless the settings say otherwise.
const AWAKE: Duration = Duration::from_secs(1);

/// How often what dead agents left is looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// The agent.
pub(crate) struct Agent {
    settings: SourcedSettings,
    /// What the settings are read from again.
    sources: Sources,
    notifications: Notifications,
    reader: Reader,
    mirror: Mirror,
    bpf: Bpf,
    sysctl_hook: SysctlHook,
    attachments: Attachments,
    protection: Protection,
    deviations: Deviations,
    /// With `--shadow`.
    shadow: Option<Shadow>,
    tcx: ForeignPrograms,
    moves: Moves,
    self_tests: SelfTests,
    link_counters: LinkCounters,
    /// Interfaces from which somebody removed what we had attached, and those that refused and where something has
    /// changed: to be attached to at the next poll.
    again: BTreeSet<u32>,
    /// When what dead agents left is looked for next.
    sweep_at: Instant,
    in_sync: Result<(), String>,
    doubts: Doubts,
    states: States,
    events: Events,
    traces: Traces,
    lease: Lease,
    replay: Replay,
    redump: Redump,
    damper: Damper,
    /// When all that changes silently will be looked for.
    full_poll_at: Instant,
    /// Little looks so far.
    cheap_polls: u32,
    /// When static proxy entries are read next, and the pause before that.
    proxies: ProxyReadings,
    resyncs: u64,
    /// How long they took together.
    resync_time: Duration,
    overruns: u64,
    started: Instant,
    /// The same by the clock on the wall.
    started_at: SystemTime,
    /// The last reload was refused.
    config_stale: bool,
    activity: LoopActivity,
    supervisor: Supervisor,
}

impl Agent {
    /// Loads the program, attaches it and brings the maps in sync.
    ///
    /// # Errors
    /// Missing capabilities, a kernel that is too old, or netlink that does not answer.
    pub(crate) fn start(settings: SourcedSettings, sources: Sources) -> anyhow::Result<Self> {
        let options = &settings.options;
        // Whoever read the settings has told their faults; here there is none.
        let policies = Policies::new(&options.protection, &options.interface).map_err(patterns::error)?;
        let answering = DeviationPolicies::new(&options.deviations, &options.interface).map_err(patterns::error)?;
        let manner = match options.shadow {
            ShadowOption::On => Manner::Shadow,
            ShadowOption::Off if answering.are_off() => Manner::AsTheKernel,
            ShadowOption::Off => Manner::ByPolicy,
        };
        let mut attachments = Attachments::new(&options.interface, options.hook_config(), &options.bpffs)?;
        let mut bpf = Bpf::load_with(Protection::guarding(&policies), manner)?;
        let protection = Protection::start(policies, &mut bpf, &mut attachments)?;
        let deviations = Deviations::start(answering, &mut bpf)?;
        let shadow = match manner {
            Manner::Shadow => Some(Shadow::start(&mut bpf, &mut attachments)?),
            Manner::AsTheKernel | Manner::ByPolicy => None,
        };
        let mut mirror = Mirror::default();
        if protection.is_on() || manner == Manner::ByPolicy {
            mirror.want_common_view();
        }
        attachments.find_left();
        // Both before the first dump: what changes during it is told as well.
        let sysctl_hook = SysctlHook::start(options.sysctl_hook == UseSysctlHook::Auto, &mut bpf);
        let mut notifications =
            Notifications::subscribe().context("subscribing to the kernel's notifications failed")?;
        notifications.ignore(attachments.port()?);
        let mut reader = Reader::new().context("opening a netlink socket failed")?;
        if options.arp_listeners == ArpListeners::Ignore {
            reader.ignore_arp_listeners();
        }
        if reader.knows_features() {
            attachments.watch_peers();
        }
        let mut agent = Agent {
            lease: Lease::new(options.lease.duration(), options.reread_interval.duration(), monotonic_ns()),
            replay: Replay::default(),
            redump: Redump::default(),
            damper: Damper::default(),
            settings,
            sources,
            notifications,
            reader,
            mirror,
            bpf,
            sysctl_hook,
            attachments,
            protection,
            deviations,
            shadow,
            tcx: ForeignPrograms::default(),
            moves: Moves::default(),
            self_tests: SelfTests::default(),
            link_counters: LinkCounters::new()?,
            again: BTreeSet::new(),
            sweep_at: Instant::now() + SWEEP,
            in_sync: Err("starting".into()),
            doubts: Doubts::new(Instant::now()),
            states: States::default(),
            events: Events::new(Instant::now()),
            traces: Traces::default(),
            full_poll_at: Instant::now(),
            cheap_polls: 0,
            proxies: ProxyReadings::new(Instant::now()),
            resyncs: 0,
            resync_time: Duration::ZERO,
            overruns: 0,
            started: Instant::now(),
            started_at: SystemTime::now(),
            config_stale: false,
            activity: LoopActivity::default(),
            supervisor: Supervisor::from_environment(),
        };
        agent.resync("start")?;
        agent.attachments.clear_left();
        agent.attachments.serve();
        Ok(agent)
    }

    /// Tells whether the agent's loop turns.
    pub(crate) fn activity(&self) -> LoopActivity {
        self.activity.clone()
    }

    /// Follows the kernel until `stop` is ready.
    ///
    /// # Errors
    /// The maps refused a batch: what they hold is no longer known, and the agent must end.
    pub(crate) async fn run(
        &mut self,
        mut requests: tokio::sync::mpsc::Receiver<(Request, tokio::sync::oneshot::Sender<Response>)>,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let mut heartbeat = self.heartbeat()?;
        tokio::pin!(stop);
        loop {
            self.activity.turned();
            self.supervisor.turned(self.in_sync.is_ok(), Instant::now());
            let is_slow = self.in_sync.is_err() || heartbeat.period() > AWAKE;
            let awake = self.supervisor.awake(AWAKE);
            let (due, retry_at) = (self.due(), self.doubts.retry_at());
            let trusted_again = self.bpf.doubts_due();
            let proxies_due = self.proxies.due();
            let events_due = self.events.due();
            let recount_at = self.protection.recount_at;
            tokio::select! {
                biased;
                () = &mut stop => {
                    self.supervisor.stopping();
                    return Ok(());
                }
                beat = heartbeat.next(), if self.in_sync.is_ok() => {
                    if beat? == Tick::Poll {
                        self.poll()?;
                    }
                    self.renew_lease()?;
                    self.note_proxies_asked();
                    self.tell_states();
                    self.note_pressure();
                }
                () = at(due.unwrap_or(retry_at)), if self.in_sync.is_ok() && due.is_some() => {
                    self.do_what_is_due()?;
                    self.renew_lease()?;
                }
                () = at(trusted_again.unwrap_or(retry_at)),
                    if self.in_sync.is_ok() && trusted_again.is_some() =>
                {
                    self.renew_lease()?;
                }
                () = at(proxies_due.unwrap_or(retry_at)), if self.in_sync.is_ok() && proxies_due.is_some() => {
                    self.read_proxies()?;
                }
                () = at(events_due.unwrap_or(retry_at)), if events_due.is_some() => {
                    self.tell_due_events();
                }
                () = at(recount_at.unwrap_or(retry_at)), if self.in_sync.is_ok() && recount_at.is_some() => {
                    self.protection.recount_at = None;
                    self.renew_lease()?;
                }
                () = self.bpf.noticed() => self.read_notices(),
                () = at(retry_at), if self.in_sync.is_err() => {
                    self.resync("retry")?;
                }
                // A loop that waits for long is alive all the same.
                () = tokio::time::sleep(awake), if is_slow => {}
                done = self.attachments.done(), if self.in_sync.is_ok() => {
                    let (snapshot, ifindex) = (self.mirror.snapshot(), done.ifindex);
                    let takes_xdp = |ifindex| snapshot.takes_xdp(ifindex);
                    self.attachments.complete(&mut self.bpf, &snapshot.links, takes_xdp, done);
                    self.attach([ifindex].into())?;
                    self.renew_lease()?;
                }
                done = self.protection.done() => self.protection.complete(done),
                () = next_comparison(&mut self.shadow) => self.compare(),
                () = self.traces.tick() => self.tend_traces(),
                () = self.sysctl_hook.wait(!self.bpf.settings_are_read()), if self.in_sync.is_ok() => {
                    self.settle_writes()?;
                    self.renew_lease()?;
                }
                batch = self.notifications.next() => {
                    self.follow(batch)?;
                    self.renew_lease()?;
                }
                Some((request, reply)) = requests.recv() => {
                    if matches!(request, Request::Sync) && self.in_sync.is_ok() {
                        self.damper.end_pauses(Instant::now());
                        self.go_on()?;
                        self.poll_fully()?;
                        self.settle_writes()?;
                        self.renew_lease()?;
                        if self.redump.due().is_some() {
                            self.reread_routes()?;
                            self.renew_lease()?;
                        }
                        self.settle_all_doubts().await?;
                        self.confirm_proxies()?;
                    }
                    if matches!(request, Request::Explain { .. }) && self.in_sync.is_ok() {
                        self.confirm_proxies()?;
                    }
                    let is_reload = matches!(request, Request::Reload);
                    // A client that went away meanwhile is nobody's loss.
                    let _ = reply.send(self.respond(request));
                    if is_reload {
                        heartbeat = self.heartbeat()?;
                    }
                }
            }
        }
    }

    fn options(&self) -> &Options {
        &self.settings.options
    }

    fn heartbeat(&self) -> anyhow::Result<Heartbeat> {
        let Options { lease, reread_interval, .. } = self.options();
        Heartbeat::start(lease.duration(), reread_interval.duration())
    }

    /// When something is to be done that waits for a time, and for nothing else.
    fn due(&self) -> Option<Instant> {
        let redump =
            self.redump.due().map(|due| Instant::now() + Duration::from_nanos(due.saturating_sub(monotonic_ns())));
        [self.self_tests.due(), self.damper.due(), self.attachments.due(), redump].into_iter().flatten().min()
    }

    fn do_what_is_due(&mut self) -> anyhow::Result<()> {
        self.go_on()?;
        let arrived = self.attachments.that_are_due(Instant::now());
        if !arrived.is_empty() {
            self.attach(arrived)?;
        }
        let to_test = self.self_tests.pending(Instant::now());
        if !to_test.is_empty() {
            let news = self.self_test_news(&to_test);
            let step = self.mirror.apply(self.attachments.attached(), news);
            self.apply(&step.changes)?;
        }
        if self.redump.due().is_some_and(|due| due <= monotonic_ns()) {
            self.reread_routes()?;
        }
        Ok(())
    }

    /// Withdraws the lease: every frame passes from here on.
    pub(crate) fn withdraw(&mut self) {
        self.lease.withdraw(monotonic_ns());
        self.bpf.withdraw_lease();
    }

    /// Renews the lease, if nothing is left to apply.
    fn renew_lease(&mut self) -> anyhow::Result<()> {
        for _ in 0..BATCHES_AT_ONCE {
            self.lease.check(monotonic_ns());
            if self.lease.was_stopped() {
                // What changed silently meanwhile comes first.
                self.poll_fully()?;
            }
            let since_drained = Instant::now();
            let batch = self.notifications.drain();
            let nothing_left = batch.as_ref().is_ok_and(Batch::is_empty);
            self.follow(batch)?;
            if self.in_sync.is_err() {
                return Ok(());
            }
            if nothing_left {
                self.bpf.settle_doubts(since_drained);
                self.count_entries(since_drained);
                return self.bpf.set_lease(self.lease.renew());
            }
        }
        // There is still more: the next heartbeat goes on, and the lease runs out if that takes too long.
        Ok(())
    }

    /// Waits until no neighbour entry is in doubt, or for as long as that should take at the most.
    async fn settle_all_doubts(&mut self) -> anyhow::Result<()> {
        const TIMES: usize = 20;
        for _ in 0..TIMES {
            let since_drained = Instant::now();
            self.renew_lease()?;
            if self.in_sync.is_err() || self.bpf.settle_all_doubts(since_drained) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Applies what was notified. The lease may be withdrawn afterwards: [`Agent::renew_lease`] is the caller's.
    fn follow(&mut self, batch: Result<Batch, Lost>) -> anyhow::Result<()> {
        let mut batch = match batch {
            Ok(batch) => batch,
            Err(lost) => {
                self.overruns += u64::from(lost.overrun);
                self.doubt(lost.to_string());
                return Ok(());
            }
        };
        if batch.reread.concerns_all() {
            self.withdraw();
        }
        let in_vain = self.replay.is_in_vain(&batch);
        if batch.is_empty() {
            return Ok(());
        }
        let some_are_held = self.damp(&mut batch);
        let arrivals = events::arrivals(&batch.events);
        self.forget_events(&batch.events);
        let routes = self.fold_batch(batch)? | in_vain;
        self.note_arrivals(arrivals);
        if some_are_held {
            // Not before their frames pass.
            self.mute_flapping();
        }
        if routes { self.reread_routes() } else { Ok(()) }
    }

    /// Folds what was notified, and what has to be asked because of it. Says whether the routes must be read again.
    fn fold_batch(&mut self, mut batch: Batch) -> anyhow::Result<bool> {
        let links = &self.mirror.snapshot().links;
        batch.check_settings(|ifindex| links.get(&ifindex));
        let Batch { mut events, reread, .. } = batch;
        let filters = events.iter().filter_map(|event| match event {
            Event::FiltersTouched(ifindex) => Some(*ifindex),
            _ => None,
        });
        let dirty: BTreeSet<u32> = filters.collect();
        // What is to be read of single interfaces keeps nobody else waiting: they are blocked by the same batch.
        let to_read = match &reread.links {
            IfSet::These(these) => these.clone(),
            IfSet::None | IfSet::All => BTreeSet::new(),
        };
        let set_unread = |stale| to_read.iter().map(move |&ifindex| Event::StaleSettings { ifindex, stale });
        events.extend(set_unread(true));
        let mut routes = self.fold(events)?;
        match self.read_again(&reread) {
            Ok(mut events) => {
                events.extend(set_unread(false));
                routes |= self.fold(events)?;
            }
            Err(error) => self.doubt(format!("re-reading the kernel's state failed: {error:#}")),
        }
        let news = self.tcx_news(&dirty);
        routes |= self.fold(news)?;
        // Who was in the way may have gone. Not at once: an attempt in vain may itself be what another agent is told of.
        self.again.extend(self.attachments.refused().filter(|ifindex| dirty.contains(ifindex)));
        self.redump();
        Ok(routes || reread.routes)
    }

    /// Routes that are not trusted are dumped again when it is time.
    fn redump(&mut self) {
        let snapshot = self.mirror.snapshot();
        let is_down = |ifindex: &u32| snapshot.links.get(ifindex).is_some_and(|link| link.flags & IFF_UP == 0);
        let (is_wanted, is_up) = (!snapshot.doubted.is_empty(), !snapshot.doubted.iter().all(is_down));
        self.redump.set(is_wanted, is_up, monotonic_ns());
    }

    fn read_again(&mut self, reread: &Reread) -> anyhow::Result<Vec<Event>> {
        let mut events = self.reader.links(&reread.links)?;
        if reread.rules {
            events.push(self.reader.rules()?);
        }
        if reread.netfilter {
            events.extend(self.reader.netfilter()?);
        }
        if reread.ingress_hooks {
            events.extend(self.reader.ingress_hooks()?);
        }
        Ok(events)
    }

    /// Folds events into the mirror, the mirror's changes into the maps. Says whether the routes must be read again; the
    /// lease is withdrawn then.
    fn fold(&mut self, events: Vec<Event>) -> anyhow::Result<bool> {
        if events.is_empty() {
            return Ok(false);
        }
        let (mut links, mut features) = (BTreeSet::new(), BTreeSet::new());
        // What follows from the events, and must be in the same batch of changes.
        let mut consequences = Vec::new();
        let unproven = |ifindex| Event::Blocked { ifindex, reason: Some(Reason::SELF_TEST_PENDING) };
        for event in &events {
            match event {
                Event::Link(link) => {
                    self.reader.note(link);
                    let ifindex = link.ifindex;
                    let known = self.mirror.snapshot().links.get(&ifindex);
                    if known == Some(link) {
                        continue;
                    }
                    links.insert(ifindex);
                    if let Some(known) = known {
                        if known.carrier_changes != link.carrier_changes {
                            // What was known of its reply path is no longer: it is tested again first.
                            if self.attachments.attached().contains(&ifindex) {
                                consequences.push(unproven(ifindex));
                            }
                            // It may have been lost and be there again.
                            consequences.push(Event::RoutesDoubted { ifindex, carrier: true });
                        }
                        if known.flags & IFF_UP != 0 && link.flags & IFF_UP == 0 {
                            consequences.push(Event::RoutesDoubted { ifindex, carrier: false });
                        }
                    }
                }
                Event::XdpFeatures { ifindex, .. } => {
                    features.insert(*ifindex);
                    if self.attachments.how(*ifindex) == Some(HookKind::XdpVeth) {
                        consequences.push(unproven(*ifindex));
                    }
                }
                Event::LinkGone(ifindex) => {
                    links.insert(*ifindex);
                    self.attachments.forget(*ifindex);
                    self.protection.forget(*ifindex);
                    self.tcx.forget_one(*ifindex);
                    self.moves.forget(*ifindex);
                    self.self_tests.forget(*ifindex);
                    self.reader.forget(*ifindex);
                }
                Event::RootQdisc { ifindex, queues } => self.reader.note_queue(*ifindex, *queues),
                // Asked next (`fold_batch`).
                Event::FiltersTouched(ifindex) => self.tcx.forget_one(*ifindex),
                _ => {}
            }
        }
        let step = self.mirror.apply(self.attachments.attached(), events.into_iter().chain(consequences));
        if step.routes_in_doubt {
            self.withdraw();
        }
        self.apply(&step.changes)?;
        self.guard_links(&links);
        self.deviate_links(&links);
        links.append(&mut features);
        if !links.is_empty() {
            // Those that refused are asked again: whoever held them may have gone.
            links.extend(self.attachments.refused());
            self.attach(links)?;
        }
        Ok(step.routes_in_doubt)
    }

    /// Reads the routes until a dump has nothing queued behind it that could not be replayed on top of it.
    fn reread_routes(&mut self) -> anyhow::Result<()> {
        self.withdraw();
        let began = monotonic_ns();
        for _ in 0..DUMPS_AT_ONCE {
            let routes = match self.reader.routes() {
                Ok(routes) => routes,
                Err(error) => {
                    self.doubt(format!("re-reading the routes failed: {error:#}"));
                    return Ok(());
                }
            };
            let changes = self.mirror.replace_routes(self.attachments.attached(), routes);
            self.apply(&changes)?;
            self.replay.dumped();
            let batch = match self.notifications.drain() {
                Ok(batch) => batch,
                lost => return self.follow(lost),
            };
            let mut again = self.replay.is_in_vain(&batch);
            again |= self.fold_batch(batch)?;
            if !again || self.in_sync.is_err() {
                self.redump.dumped(began, monotonic_ns());
                self.redump();
                return Ok(());
            }
        }
        self.doubt("the routes change faster than they can be read".into());
        Ok(())
    }

    /// Of these interfaces, attaches to what has come, detaches from what has gone.
    fn attach(&mut self, interfaces: BTreeSet<u32>) -> anyhow::Result<()> {
        let snapshot = self.mirror.snapshot();
        self.attachments.reconcile(&mut self.bpf, &snapshot.links, &interfaces, |ifindex| snapshot.takes_xdp(ifindex));
        for &ifindex in &interfaces {
            if !self.attachments.attached().contains(&ifindex) {
                // Whatever became of it: nothing is left to be tested, nor due.
                self.self_tests.forget(ifindex);
            }
        }
        // A new interface is asked for hooks that are not notified before its entry lets it answer.
        let mut news = self.tcx_news(&interfaces);
        // Likewise its reply path is tested.
        news.extend(self.self_test_news(&interfaces));
        let step = self.mirror.apply(self.attachments.attached(), news);
        self.states.touch(Instant::now());
        self.apply(&step.changes)
    }

    /// Logs what has become of interfaces since it was told last.
    fn tell_states(&mut self) {
        if self.states.are_due(Instant::now()) {
            let states = self.states_in_words();
            if self.supervisor.is_there() {
                let answering = states.values().filter(|(_, state)| state.starts_with("answering")).count();
                self.supervisor.state(format!("answering on {answering} of {} interfaces", states.len()));
            }
            self.states.tell(states).iter().for_each(|line| log::info!("{line}"));
        }
    }

    fn apply(&mut self, changes: &[Change]) -> anyhow::Result<()> {
        for change in changes {
            log::debug!("{change:?}");
            if matches!(change, Change::Iface(..)) {
                self.states.touch(Instant::now());
            }
        }
        let applied = self.bpf.apply(changes);
        applied.context("the BPF maps refused a change: the agent ends, and frames pass to the kernel")?;
        self.guard(changes);
        self.deviate(changes);
        self.tap(changes);
        Ok(())
    }

    /// From now on frames pass, until a resync.
    fn doubt(&mut self, why: String) {
        match self.doubts.line(&why, Instant::now()) {
            Some(line) => log::warn!("{line}"),
            None => log::debug!("not in sync with the kernel: {why}"),
        }
        self.withdraw();
        self.supervisor.state(format!("not in sync, every frame passes: {why}"));
        // What is told next is the state of interfaces again.
        self.states.touch(Instant::now());
        self.in_sync = Err(why);
    }

    /// Reads everything again. Failures of the kernel to answer are tried again later; failures of the maps are final.
    fn resync(&mut self, why: &str) -> anyhow::Result<()> {
        let start = Instant::now();
        let done = self.read_everything(why);
        self.resync_time += start.elapsed();
        done
    }

    fn read_everything(&mut self, why: &str) -> anyhow::Result<()> {
        log::debug!("reading the kernel's state ({why})");
        self.withdraw();
        // What is still queued is older than the dump that follows.
        let _ = self.notifications.drain();
        self.lease.polled(monotonic_ns());
        let mut dump = match self.reader.everything() {
            Ok(dump) => dump,
            Err(error) => {
                self.doubt(format!("reading the kernel's state failed: {error:#}"));
                self.doubts.has_read(false, Instant::now());
                return Ok(());
            }
        };
        self.doubts.has_read(true, Instant::now());
        self.resyncs += 1;
        dump.extend(self.held_back());
        self.replay.dumped();
        self.tcx.forget();
        // It has the links that are attached to as they are now.
        let _ = self.lost_xdp();
        let changes = self.mirror.resync(self.attachments.attached(), dump);
        self.apply(&changes)?;
        let known = self.attachments.iter().map(|(ifindex, _)| ifindex);
        self.attach(known.chain(self.mirror.snapshot().links.keys().copied()).collect())?;
        self.in_sync = Ok(());
        self.note_all_places();
        // What was notified while the dump ran is applied on top of it; what cannot be has the routes read again.
        let meanwhile = self.notifications.drain();
        self.follow(meanwhile)?;
        self.renew_lease()?;
        if self.in_sync.is_ok() {
            let level = if self.doubts.is_end_told() { log::Level::Info } else { log::Level::Debug };
            let (prefixes, neighbours) = (self.mirror.prefixes(), self.mirror.neighbours());
            let matching = self.attachments.iter().count();
            log::log!(level, "in sync: {prefixes} prefixes, {neighbours} neighbours, {matching} interfaces match");
        }
        Ok(())
    }
}

/// Waits until then; not at all if that has passed. The timers of tokio count whole milliseconds, rounded up, for what is
/// due at once as well.
async fn at(when: Instant) {
    if when > Instant::now() {
        tokio::time::sleep_until(when.into()).await;
    }
}

/// Waits until it is time to look what came of requests; for ever where nothing is compared.
async fn next_comparison(shadow: &mut Option<Shadow>) {
    match shadow {
        Some(shadow) => shadow.tick().await,
        None => std::future::pending().await,
    }
}

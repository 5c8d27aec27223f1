//! The configuration is read again: all of it is taken over, or nothing.

use super::Agent;
use crate::config::Options;
use crate::config::reload::changes;
use crate::config::sources::SourcedSettings;
use crate::deviations::policies::DeviationPolicies;
use crate::event::Link;
use crate::logging;
use crate::protection::patterns;
use crate::protection::policies::Policies;
use std::time::Instant;

impl Agent {
    /// Reads the settings again and takes them over. Gives those that have changed. The caller restarts the heartbeat.
    ///
    /// # Errors
    /// They are wrong, or one has changed that cannot while the agent runs, or there is no room for policies: the old ones
    /// stay. The maps refused a change.
    pub(super) fn reload(&mut self) -> anyhow::Result<Vec<String>> {
        self.supervisor.reloading();
        let done = self.read_settings();
        self.supervisor.reloaded();
        done
    }

    fn read_settings(&mut self) -> anyhow::Result<Vec<String>> {
        let read = self.sources.read().and_then(|new| {
            new.need_interfaces()?;
            let changes = changes(&self.settings, &new)?;
            // Of all that is taken over this alone may be refused: so it comes first.
            self.take_over_policies(&new.options)?;
            Ok((new, changes))
        });
        let (new, changes) = match read {
            Ok(read) => read,
            Err(error) => {
                self.config_stale = true;
                log::error!("the configuration stays as it was: {error:#}");
                return Err(error);
            }
        };
        new.warnings.iter().for_each(|warning| log::warn!("{warning}"));
        self.config_stale = false;
        self.take_over(new)?;
        match changes.as_slice() {
            [] => log::info!("the configuration was read again: nothing has changed"),
            changes => log::info!("the configuration was read again: {}", changes.join(", ")),
        }
        Ok(changes)
    }

    fn take_over_policies(&mut self, new: &Options) -> anyhow::Result<()> {
        let protection = Policies::new(&new.protection, &new.interface).map_err(patterns::error)?;
        let answering = DeviationPolicies::new(&new.deviations, &new.interface).map_err(patterns::error)?;
        let known = self.mirror.snapshot().links.values();
        let links: Vec<&Link> = known.filter(|link| self.mirror.iface(link.ifindex).is_some()).collect();
        let answering = self.deviations.prepare(answering, &mut self.bpf)?;
        let protection = match self.protection.prepare(protection, &mut self.bpf, &links) {
            Ok(protection) => protection,
            Err(error) => {
                self.deviations.discard(answering, &mut self.bpf);
                return Err(error);
            }
        };
        self.deviations.change(answering, &mut self.bpf, &links);
        self.protection.change(protection, &mut self.bpf, &links);
        Ok(())
    }

    fn take_over(&mut self, new: SourcedSettings) -> anyhow::Result<()> {
        let (old, new) = (std::mem::replace(&mut self.settings, new), &self.settings.options);
        logging::set(new.log_level, new.log_format);
        self.lease.set(new.lease.duration(), new.reread_interval.duration());
        self.full_poll_at = self.full_poll_at.min(Instant::now() + new.reread_interval.duration());
        if old.options.interface != new.interface {
            self.attachments.set_patterns(&new.interface)?;
            // If the maps are not in sync, the next resync does it.
            if self.in_sync.is_ok() {
                let known = self.attachments.iter().map(|(ifindex, _)| ifindex);
                self.attach(known.chain(self.mirror.snapshot().links.keys().copied()).collect())?;
                self.renew_lease()?;
            }
        }
        Ok(())
    }
}

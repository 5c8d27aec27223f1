//! The configuration is read again: all of it is taken over, or nothing.

use super::Agent;
use crate::config::reload::changes;
use crate::config::sources::Settings;
use crate::logging;
use std::time::Instant;

impl Agent {
    /// Reads the settings again and takes them over. Gives those that have changed. The caller restarts the heartbeat.
    ///
    /// # Errors
    /// They are wrong, or one has changed that cannot while the agent runs: the old ones stay. The maps refused a change.
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

    fn take_over(&mut self, new: Settings) -> anyhow::Result<()> {
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

//! What the operator says: commands, and another config.
//!
//! Owns: taking them in, what is answered, and giving the operator's word to be kept. Must not: wait for the disk in the
//! loop.

use std::time::Duration;

use mailsteer_core::decide::{Command, EventKind, Observation, OperatorError};
use tokio::sync::oneshot;
use tracing::warn;

use super::super::config::{self, LoadError};
use super::{Reconciler, told_without_ebpf};
use crate::api::view::ReloadReport;
use crate::state::{Heard, Receipt, Word};

/// How long an operator's command waits for the disk before it is answered that it is not kept yet.
const KEPT: Duration = Duration::from_secs(3);

impl Reconciler {
    /// Carries a command out, and lets it be answered when it has taken effect and is kept. Nobody waits for the disk
    /// here.
    pub(super) async fn obey(
        &mut self,
        command: Command,
        answer: oneshot::Sender<Result<String, OperatorError>>,
    ) {
        let now = self.now();
        let events = match self.world.command(command, now) {
            Ok(events) => events,
            Err(error) => {
                let _caller_gone = answer.send(Err(error));
                return;
            }
        };
        let text = events.last().map(|event| event.kind.to_string()).unwrap_or_default();
        self.tell(&events);
        let receipt = self.keep_word();
        self.reconcile().await;
        tokio::spawn(async move {
            let _caller_gone = answer.send(Ok(with_receipt(text, receipt).await));
        });
    }

    /// Gives the operator's word to be kept where it changed: by a command, or because a time is over.
    pub(super) fn keep_word(&mut self) -> Option<Receipt> {
        let world = &self.world;
        let same = *world.suspensions() == self.word.suspended
            && *world.bypasses() == self.word.bypassed
            && world.hold() == self.word.hold.as_ref();
        if same {
            return None;
        }
        self.word = Word {
            suspended: world.suspensions().clone(),
            bypassed: world.bypasses().clone(),
            hold: world.hold().cloned(),
        };
        Some(self.shared.store.word(self.word.clone()))
    }

    /// Gives beliefs to be kept where they changed.
    pub(super) fn keep_beliefs(&mut self) {
        if self.world.beliefs() != self.beliefs {
            self.keep_heard();
        }
    }

    /// Gives what was heard to be kept, and the beliefs that followed from it with it.
    pub(super) fn keep_heard(&mut self) {
        let beliefs = self.world.beliefs();
        let changed = (beliefs != self.beliefs).then(|| beliefs.clone());
        let heard = Heard { fuses: self.world.fuse_windows().clone(), ..self.shared.outcomes.heard() };
        self.shared.store.heard(changed, heard);
        self.beliefs = beliefs;
    }

    pub(super) async fn reload(&mut self) -> Result<ReloadReport, LoadError> {
        self.outside.manager.reloading();
        let report = self.read_config().await;
        self.reconcile().await;
        self.outside.manager.ready();
        report
    }

    /// Takes the config file in; a bad one changes nothing.
    async fn read_config(&mut self) -> Result<ReloadReport, LoadError> {
        let path = self.options.config.clone();
        let loaded = match config::load(path.as_deref()).await {
            Ok(loaded) => loaded,
            Err(error) => {
                let errors = if let LoadError::Wrong { problems, .. } = &error { problems.len() } else { 1 };
                self.tell_now(EventKind::ConfigRefused { errors });
                self.config_error = Some(error.to_string());
                return Err(error);
            }
        };
        if let Some(Err(error)) = self.no_guard().map(|why| told_without_ebpf(&loaded.config, why)) {
            self.tell_now(EventKind::ConfigRefused { errors: 1 });
            self.config_error = Some(error.to_string());
            return Err(error);
        }
        config::keep(&self.options.state, &loaded.text).await;
        let changed = loaded.config != *self.world.config();
        let mut warnings = loaded.warnings;
        if loaded.config.ebpf != self.world.config().ebpf {
            warnings.push("`[guard] ebpf` takes effect at the agent's next start".to_owned());
        }
        self.config_error = None;
        self.config_loaded = loaded.loaded_at;
        self.outside.access.set(loaded.config.control.clone());
        if loaded.config.own_table != self.world.config().own_table
            && let Err(error) = self.executor.own_table(loaded.config.own_table)
        {
            warn!("{error}");
        }
        self.shared.outcomes.judge_by(loaded.replies);
        self.shared.store.retain(loaded.config.retention);
        self.shared.hooks.set(&loaded.config.hooks);
        let now = self.now();
        let events = self.world.apply(Observation::Config(Box::new(loaded.config)), now);
        self.tell(&events);
        let file = path.map(|path| path.display().to_string()).unwrap_or_default();
        Ok(ReloadReport { file, changed, warnings })
    }
}

/// What is said of a command: that the disk did not take it, too.
async fn with_receipt(text: String, receipt: Option<Receipt>) -> String {
    let Some(receipt) = receipt else { return text };
    let cause = match tokio::time::timeout(KEPT, receipt).await {
        Ok(Ok(Ok(()))) => return text,
        Ok(Ok(Err(cause))) => cause,
        Ok(Err(_ended)) => "the state database was closed".to_owned(),
        Err(_late) => "the disk does not answer".to_owned(),
    };
    format!("{text}; it is in effect, but not on the disk yet and forgotten if the agent ends: {cause}")
}

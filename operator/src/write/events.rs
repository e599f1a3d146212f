//! Events: what changed for an object, for people. One that cannot be written is not worth a second try.

use super::Writer;
use crate::key::Key;
use crate::plan::transition::Note;
use crate::run::Context;
use crds::v1alpha1::API_VERSION;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;

/// Events that wait to be written; one more is left out.
const WAITING: usize = 256;
/// Characters of a note (`events.k8s.io/v1` takes 1024).
const MAX_NOTE: usize = 1000;

/// Where Events go. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    writer: Writer,
    places: Arc<Semaphore>,
    /// The last one was left out.
    full: Arc<AtomicBool>,
}

impl Events {
    pub(super) fn new(context: Context, writer: Writer) -> Self {
        let reporter =
            Reporter { controller: "sipmcp.dev/operator".to_owned(), instance: Some(context.args.name.clone()) };
        let recorder = Recorder::new(context.client, reporter);
        Events { recorder, writer, places: Arc::new(Semaphore::new(WAITING)), full: Arc::default() }
    }

    /// Tells; never waits.
    pub fn tell(&self, key: &Key, uid: &str, note: &Note) {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!("too many Events wait, some are left out; the first one is about {key}: {}", note.text);
            }
            return;
        };
        self.full.store(false, Ordering::Relaxed);
        let text: String = note.text.chars().take(MAX_NOTE).collect();
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason.clone(),
            note: Some(text),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let namespace = Some(key.object.namespace.clone()).filter(|namespace| !namespace.is_empty());
        let reference = ObjectReference {
            api_version: Some(API_VERSION.to_owned()),
            kind: Some(key.kind.as_str().to_owned()),
            name: Some(key.object.name.clone()),
            namespace,
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let Events { recorder, writer, .. } = self.clone();
        let key = key.clone();
        tokio::spawn(async move {
            if let Err(error) = writer.write("Event", recorder.publish(&event, &reference)).await {
                tracing::debug!(%error, "an Event about {key} could not be written");
            }
            drop(place);
        });
    }
}

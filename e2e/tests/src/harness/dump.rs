//! What is kept of a failure: events, pods and their logs, and our objects, a folder for each test.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{ListParams, LogParams};
use kube::{Api, ResourceExt};
use tokio::fs;

use super::cluster::World;

/// Lines of a container's log.
const LINES: i64 = 2000;
const KINDS: [&str; 5] = ["SipEdge", "SessionStore", "McpAgent", "McpCapabilityPolicy", "SipDomain"];
/// Objects of a kind.
const MOST: u32 = 200;

/// Writes what is known of these namespaces to a folder, and returns it. What cannot be had is left out: the failure itself matters more.
pub async fn dump(world: &World, test: &str, namespaces: &[String]) -> PathBuf {
    let folder = world.args.dumps.join(&world.run).join(test);
    let _ = fs::create_dir_all(&folder).await;
    for namespace in namespaces {
        events(world, namespace, &folder).await;
        pods(world, namespace, &folder).await;
        for kind in KINDS {
            let list = world.ours(kind, namespace).list(&ListParams::default().limit(MOST)).await;
            if let Ok(list) = list
                && !list.items.is_empty()
            {
                write(&folder, &format!("{namespace}-{}.json", kind.to_lowercase()), &pretty(&list.items)).await;
            }
        }
    }
    folder
}

async fn write(folder: &Path, file: &str, text: &str) {
    let _ = fs::write(folder.join(file), text).await;
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

async fn events(world: &World, namespace: &str, folder: &Path) {
    let api = Api::<Event>::namespaced(world.client.clone(), namespace);
    let Ok(list) = api.list(&ListParams::default()).await else { return };
    let mut lines: Vec<String> = list.items.iter().map(line).collect();
    lines.sort();
    write(folder, &format!("{namespace}-events.txt"), &(lines.join("\n") + "\n")).await;
}

fn line(event: &Event) -> String {
    let at = event.last_timestamp.as_ref().map(|time| time.0.to_string());
    let at = at.or_else(|| event.event_time.as_ref().map(|time| time.0.to_string())).unwrap_or_default();
    let about = &event.involved_object;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    format!(
        "{at} {} {}/{} {} {}",
        text(&event.type_),
        text(&about.kind),
        text(&about.name),
        text(&event.reason),
        text(&event.message)
    )
}

async fn pods(world: &World, namespace: &str, folder: &Path) {
    let api: Api<Pod> = world.pods(namespace);
    let Ok(list) = api.list(&ListParams::default()).await else { return };
    write(folder, &format!("{namespace}-pods.json"), &pretty(&list.items)).await;
    for pod in list.items {
        let name = pod.name_any();
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        for container in containers {
            for previous in [false, true] {
                let params = LogParams {
                    container: Some(container.name.clone()),
                    previous,
                    tail_lines: Some(LINES),
                    timestamps: true,
                    ..LogParams::default()
                };
                if let Ok(text) = api.logs(&name, &params).await {
                    let life = if previous { "-before" } else { "" };
                    write(folder, &format!("{namespace}-{name}-{}{life}.log", container.name), &text).await;
                }
            }
        }
    }
}

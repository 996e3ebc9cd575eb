//! Watching a deployment to its end. The deployment runs in the control plane: losing the connection, or the person
//! at the keyboard, changes nothing about it.

use std::time::Duration;

use api::public::deploys::{DeployFailure, Deployment, DeploymentStatus, Plan};
use futures_util::StreamExt;
use model::AppName;
use tokio::time::Instant;

use super::{
    client::Client,
    context::Context,
    exit::{Exit, Failure},
    output::printable,
};

/// How long the platform may be away before watching is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two tries to reach it again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Shows what a deployment will do.
pub fn show_plan(context: &Context, app: &AppName, plan: &Plan) {
    context.out.say(format!("Plan for {app} ({}):", printable(&plan.image)));
    for step in &plan.steps {
        context.out.say(format!("  - {}", printable(&step.description)));
    }
    if plan.steps.is_empty() {
        context.out.say("  - nothing changes");
    }
    for warning in &plan.warnings {
        context.out.warn(printable(warning));
    }
}

/// Watches a deployment to its end, then says where the app is, or why not.
///
/// # Errors
/// If it failed, the platform stays away, or the person interrupts (the deployment then goes on).
pub async fn finish(context: &Context, client: &Client, deployment: Deployment) -> Result<(), Failure> {
    let (app, id) = (deployment.app.clone(), deployment.id.clone());
    let ended = tokio::select! {
        ended = to_the_end(context, client, deployment) => ended?,
        _ = tokio::signal::ctrl_c() => {
            context.out.say(format!("\nThe deployment goes on. Watch it again with `{}`.", again(&app, &id)));
            return Err(Failure::said(Exit::Interrupted));
        }
    };
    match (&ended.status, &ended.failure) {
        (DeploymentStatus::Complete, _) => {
            context.out.say(format!("Release v{} of {app} runs.", ended.release));
            context.out.data(&ended, || ended.url.clone().unwrap_or_default())
        }
        (_, failure) => {
            if context.out.is_json() {
                context.out.data(&ended, String::new)?;
            }
            Err(explain(&ended, failure.as_ref()))
        }
    }
}

/// Says how to watch a deployment that nobody waits for.
pub fn detach(context: &Context, deployment: &Deployment) -> Result<(), Failure> {
    context.out.say(format!("Watch it with `{}`.", again(&deployment.app, &deployment.id)));
    context.out.data(deployment, || deployment.id.clone())
}

fn again(app: &AppName, id: &str) -> String {
    format!("dunlin deployments watch {id} -a {app}")
}

async fn to_the_end(context: &Context, client: &Client, mut deployment: Deployment) -> Result<Deployment, Failure> {
    let mut seen = 0;
    let mut last_answer = Instant::now();
    while !deployment.status.has_ended() {
        let before = seen;
        let failure = match events(context, client, &deployment, &mut seen).await {
            Ok(()) => client.deployment(&deployment.app, &deployment.id).await.map(|now| deployment = now).err(),
            Err(failure) => Some(failure),
        };
        if failure.is_none() || seen > before {
            last_answer = Instant::now();
        }
        match failure {
            Some(failure) if failure.exit != Exit::Unreachable => return Err(failure),
            Some(failure) if last_answer.elapsed() > PATIENCE => {
                return Err(Failure {
                    message: format!("{} (the deployment itself goes on)", failure.message),
                    ..failure
                });
            }
            Some(_) => context.out.say("The platform does not answer; trying again."),
            None => {}
        }
        if !deployment.status.has_ended() {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }
    Ok(deployment)
}

/// Tells what happens until the stream ends.
async fn events(context: &Context, client: &Client, deployment: &Deployment, seen: &mut u64) -> Result<(), Failure> {
    let events = client.deployment_events(&deployment.app, &deployment.id, *seen).await?;
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let event = event?;
        *seen = event.number.max(*seen);
        let machine = event.machine.map(|machine| format!("{machine} ")).unwrap_or_default();
        context.out.say(format!("  {machine}{}", printable(&event.message)));
    }
    Ok(())
}

/// Everything a person needs to mend a failed deployment.
fn explain(deployment: &Deployment, failure: Option<&DeployFailure>) -> Failure {
    let unknown = DeployFailure::default();
    let failure = failure.unwrap_or(&unknown);
    let mut lines =
        vec![format!("release v{} failed and was undone: {}", deployment.release, printable(&failure.summary))];
    lines.extend(failure.machine.as_ref().map(|machine| format!("  machine:   {machine}")));
    let memory = failure.oom_killed.then(|| "  ended:     killed for want of memory".to_owned());
    lines.extend(memory.or(failure.exit_code.map(|code| format!("  ended:     with exit code {code}"))));
    if !failure.listening.is_empty() {
        lines.push(format!("  listening: {}", printable(&failure.listening.join(", "))));
    }
    if !failure.log_tail.is_empty() {
        lines.push("  its last lines:".to_owned());
        lines.extend(failure.log_tail.iter().map(|line| format!("    | {}", printable(line))));
    }
    let hint = Some(failure.hint.clone()).filter(|hint| !hint.is_empty());
    Failure { exit: Exit::DeployFailed, message: lines.join("\n"), hint }
}

#[cfg(test)]
mod tests {
    use model::Timestamp;

    use super::*;

    #[test]
    fn a_failure_says_everything_that_helps() {
        let deployment = Deployment {
            id: "01".to_owned(),
            app: "web".parse().unwrap(),
            release: 3,
            status: DeploymentStatus::Failed,
            plan: Plan::default(),
            created_at: Timestamp(0),
            ended_at: None,
            failure: None,
            url: None,
        };
        let failure = DeployFailure {
            summary: "nothing listens on port 8080".to_owned(),
            machine: Some("91857209c66d28".parse().unwrap()),
            exit_code: Some(1),
            oom_killed: false,
            log_tail: vec!["boom\u{1b}[2J".to_owned()],
            listening: vec!["tcp 127.0.0.1:8080".to_owned()],
            hint: "listen on 0.0.0.0".to_owned(),
        };
        let told = explain(&deployment, Some(&failure));
        assert_eq!(told.exit, Exit::DeployFailed);
        assert_eq!(told.hint.as_deref(), Some("listen on 0.0.0.0"));
        assert_eq!(
            told.message,
            "release v3 failed and was undone: nothing listens on port 8080\n  machine:   91857209c66d28\n  \
             ended:     with exit code 1\n  listening: tcp 127.0.0.1:8080\n  its last lines:\n    | boom [2J"
        );
    }
}

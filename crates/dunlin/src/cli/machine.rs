//! `dunlin machine`: single machines.

use api::public::machines::{Machine as Shown, StopMachine};
use clap::Subcommand;
use model::{
    GoDuration, MachineId,
    machine::{CheckState, Event, MachineState},
};

use super::{
    client::Client,
    context::Context,
    exec,
    exit::{Exit, Failure},
    output::{list, table},
    terminal,
};

/// What to do about machines.
#[derive(Debug, Subcommand)]
pub enum Machine {
    /// List an app's machines
    #[command(visible_alias = "ls")]
    List,
    /// Show a machine and what happened to it
    #[command(visible_alias = "show")]
    Status {
        /// The machine
        id: MachineId,
    },
    /// Start machines
    Start {
        /// The machines
        #[arg(required = true)]
        ids: Vec<MachineId>,
    },
    /// Stop machines
    Stop {
        /// The machines
        #[arg(required = true)]
        ids: Vec<MachineId>,
        /// The signal that asks the program to end; the machine's own unless given
        #[arg(long, short)]
        signal: Option<String>,
        /// How long to wait before it is killed, such as 10s
        #[arg(long)]
        timeout: Option<GoDuration>,
    },
    /// Keep the memory of machines and end them; a start goes on where they were
    Suspend {
        /// The machines
        #[arg(required = true)]
        ids: Vec<MachineId>,
    },
    /// Stop machines and start them again
    Restart {
        /// The machines
        #[arg(required = true)]
        ids: Vec<MachineId>,
    },
    /// Destroy machines
    #[command(visible_alias = "rm")]
    Destroy {
        /// The machines
        #[arg(required = true)]
        ids: Vec<MachineId>,
        /// Even while they run
        #[arg(long, short)]
        force: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Run a command in a machine, and end with its exit status
    Exec(exec::Exec),
}

/// Does it.
pub async fn run(context: &Context, command: Machine) -> Result<Exit, Failure> {
    match command {
        Machine::List => show_all(context).await?,
        Machine::Status { id } => show(context, &id).await?,
        Machine::Exec(command) => return exec::run(context, command).await,
        Machine::Start { ids } => {
            let (client, app) = (context.client()?, context.app()?);
            for id in &ids {
                let reply = client.start_machine(&app, id).await?;
                context.out.say(format!("Started machine {id} (it was {}).", reply.previous_state));
            }
        }
        Machine::Stop { ids, signal, timeout } => {
            let (client, app) = (context.client()?, context.app()?);
            let how = StopMachine { signal, timeout };
            for id in &ids {
                client.stop_machine(&app, id, &how).await?;
                context.out.say(format!("Stopped machine {id}."));
            }
        }
        Machine::Suspend { ids } => suspend(context, &context.client()?, &ids).await?,
        Machine::Restart { ids } => {
            let (client, app) = (context.client()?, context.app()?);
            for id in &ids {
                client.restart_machine(&app, id).await?;
                context.out.say(format!("Restarted machine {id}."));
            }
        }
        Machine::Destroy { ids, force, yes } => destroy(context, &context.client()?, &ids, force, yes).await?,
    }
    Ok(Exit::Success)
}

async fn suspend(context: &Context, client: &Client, ids: &[MachineId]) -> Result<(), Failure> {
    let app = context.app()?;
    for id in ids {
        client.suspend_machine(&app, id).await?;
        match client.machine(&app, id).await?.state {
            MachineState::Suspended => context.out.say(format!("Suspended machine {id}.")),
            state => context.out.say(format!("Machine {id} could not be suspended and is {state}; see `dunlin logs`.")),
        }
    }
    Ok(())
}

async fn destroy(context: &Context, client: &Client, ids: &[MachineId], force: bool, yes: bool) -> Result<(), Failure> {
    let app = context.app()?;
    for id in ids {
        if !yes {
            let machine = client.machine(&app, id).await?;
            terminal::confirm(id.as_str(), &format!("Machine {id} of {app} ({}) will be destroyed", machine.state))?;
        }
        client.destroy_machine(&app, id, force).await?;
        context.out.say(format!("Destroyed machine {id}."));
    }
    Ok(())
}

async fn show_all(context: &Context) -> Result<(), Failure> {
    let machines = context.client()?.machines(&context.app()?).await?;
    if machines.is_empty() {
        context.out.say("There are no machines. Put some into effect with `dunlin deploy`.");
    }
    context.out.data(&machines, || rows(&machines))
}

/// Machines as people read them.
pub fn rows(machines: &[Shown]) -> String {
    let row = |machine: &Shown| {
        let state = state(machine);
        let release = machine.config.metadata.get("fly_release_version").map(|version| format!("v{version}"));
        [
            machine.id.to_string(),
            group(machine).to_owned(),
            state,
            checks(machine),
            machine.region.to_string(),
            release.unwrap_or_default(),
            machine.private_ip.clone(),
            machine.updated_at.clone(),
        ]
    };
    let headings = ["ID", "GROUP", "STATE", "CHECKS", "REGION", "RELEASE", "ADDRESS", "CHANGED"];
    table(headings, machines.iter().map(row))
}

/// What a machine is doing, and why in a word: `stopped (idle)` is woken by a request.
fn state(machine: &Shown) -> String {
    let rests = matches!(machine.state, MachineState::Stopped | MachineState::Suspended);
    match machine.state {
        state if machine.cordoned => format!("{state} (cordoned)"),
        state if rests && Event::rests_for_want_of_traffic(&machine.events) => format!("{state} (idle)"),
        state => state.to_string(),
    }
}

/// The process group of a machine; empty if it belongs to none.
pub fn group(machine: &Shown) -> &str {
    machine.config.metadata.get("fly_process_group").map_or("", String::as_str)
}

fn checks(machine: &Shown) -> String {
    let passing = machine.checks.iter().filter(|check| check.status == CheckState::Passing).count();
    if machine.checks.is_empty() { "-".to_owned() } else { format!("{passing}/{} passing", machine.checks.len()) }
}

async fn show(context: &Context, id: &MachineId) -> Result<(), Failure> {
    let machine = context.client()?.machine(&context.app()?, id).await?;
    context.out.data(&machine, || people(&machine))
}

fn people(machine: &Shown) -> String {
    let guest = &machine.config.guest;
    let image = &machine.image_ref;
    let digest = image.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
    let mut sections = vec![list([
        ("ID", machine.id.to_string()),
        ("Name", machine.name.clone()),
        ("State", state(machine)),
        ("Reason", machine.reason.clone().unwrap_or_default()),
        ("Group", group(machine).to_owned()),
        ("Region", machine.region.to_string()),
        ("Image", format!("{}/{}{digest}", image.registry, image.repository)),
        ("Size", format!("{:?} {} CPU, {} MB", guest.cpu_kind, guest.cpus, guest.memory_mb).to_lowercase()),
        ("Address", machine.private_ip.clone()),
        ("Isolation", machine.isolation.map(|wall| wall.to_string()).unwrap_or_default()),
        ("Created", machine.created_at.clone()),
        ("Changed", machine.updated_at.clone()),
        ("Version", machine.instance_id.to_string()),
    ])];
    if !machine.checks.is_empty() {
        let row = |check: &model::machine::CheckStatus| {
            [check.name.clone(), format!("{:?}", check.status).to_lowercase(), check.output.clone()]
        };
        sections.push(table(["CHECK", "STATUS", "OUTPUT"], machine.checks.iter().map(row)));
    }
    sections.push(table(["TIME", "EVENT", "STATUS", "BY", "MORE"], machine.events.iter().map(event)));
    sections.join("\n\n")
}

fn event(event: &model::machine::Event) -> [String; 5] {
    let more = event.request.as_ref().map(|request| {
        let exit = request.exit_event.as_ref().map(|exit| match exit.oom_killed {
            true => "killed for want of memory".to_owned(),
            false => format!("exit code {}", exit.exit_code),
        });
        exit.into_iter().chain(request.message.clone()).collect::<Vec<_>>().join("; ")
    });
    let time = kit::clock::rfc3339(event.timestamp.0);
    [time, event.kind.clone(), event.status.clone(), event.source.clone(), more.unwrap_or_default()]
}

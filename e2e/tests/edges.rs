//! Edges on other hosts: they follow a control plane, and reach the machines of its host by the worker there.

use std::ffi::OsStr;

use e2e::{
    Options, Platform,
    acme::{Acme, self_signed},
    edge_host::EdgeHost,
    eventually, has, image, obstacle, skip,
};

const CONFIG: &str = "[http_service]\ninternal_port = 8080\nauto_stop_machines = \"stop\"\nauto_start_machines = true\n\
    auto_stop_after = \"3s\"\n[[services]]\ninternal_port = 8080\nauto_stop_machines = \"stop\"\n\
    auto_start_machines = true\n[[services.ports]]\nport = 9000\n";

#[test]
fn edges_on_other_hosts_serve_what_the_control_plane_says_and_go_on_without_it() {
    if let Some(obstacle) = obstacle(&["hello"]).or_else(EdgeHost::obstacle) {
        return skip("edges on other hosts", &obstacle);
    }
    if !has("curl") {
        return skip("edges on other hosts", "curl is not installed");
    }
    let cables = [1, 2].map(|number| (number, EdgeHost::lay_cable(number)));
    // Both find the worker at the first cable's near end.
    let near = EdgeHost::near(1);
    // Where there is a DNS to prove host names by, those are told to the edges too.
    let mut acme = Acme::obstacle().is_none().then(Acme::prepare);
    let worker = ["--worker-listen", "0.0.0.0:7443", "--worker-address", &format!("{near}:7443")].map(str::to_owned);
    let named = acme.as_ref().map(Acme::options).unwrap_or_default();
    // Names may lead to the first edge.
    let there = ["--public-address", &EdgeHost::at_far_end(1)].map(str::to_owned);
    let serve = [&worker[..], &named, &there].concat();
    let mut platform = Platform::start(Options { serve, open_api: true, ..Options::default() });
    platform.deploy("far", CONFIG, &image("hello"));
    let mut edges = cables.map(|(number, holder)| {
        let edge = EdgeHost::start(number, ["ams", "iad"][usize::from(number) - 1], holder, &platform);
        if number == 2 {
            // The second host has its way to the first cable, as hosts in the world have.
            edge.route_to(&near);
        }
        edge
    });

    for edge in &edges {
        eventually("the edge has heard of the app", || edge.get("far", "/").is_some());
        assert!(edge.curl(&[], 9000, "/").ends_with("\n200"), "a bare connection passes");
    }
    // What sleeps on its own host is woken from another one.
    eventually("it sleeps", || platform.machines("far")[0]["state"] == "stopped");
    assert!(edges[0].get("far", "/").is_some(), "it is woken");
    assert_eq!(platform.machines("far")[0]["state"], "started");

    let own = platform.scratch().join("own.pem");
    if let Some(acme) = &mut acme {
        // An issuer comes to where a name leads: to an edge that has the proof, and then the certificate.
        for (name, https_port) in [("by-tls.example.test", 443), ("by-http.example.test", 9)] {
            acme.start_asking_at(80, https_port);
            acme.lead(name, &edges[0].far());
            platform.ok(["certs", "add", name, "-a", "far"]);
            eventually("it is proven at the edge", || edges[0].https(name, &acme.root()).is_some());
        }
        let key = platform.scratch().join("own.key");
        self_signed(&own, &key, "own.example.test");
        let import = ["certs", "import", "own.example.test", "-a", "far", "--fullchain"].map(OsStr::new);
        platform.ok(import.into_iter().chain([own.as_os_str(), OsStr::new("--private-key"), key.as_os_str()]));
        eventually("the edge serves it", || edges[0].https("own.example.test", &own).is_some());
    } else {
        skip("host names at edges on other hosts", "pebble is not installed");
    }

    platform.ok(["maintenance", "on", "-a", "far", "--message", "back at noon"]);
    let page = || edges[1].curl(&["--header", "Host: far.dunlin.localhost"], 80, "/");
    eventually("the edge tells it", || page().contains("503 PH13") && page().contains("back at noon"));
    platform.ok(["maintenance", "off", "-a", "far"]);
    eventually("it is over", || edges[1].get("far", "/").is_some());

    // An edge that starts while the control plane is away knows what it knew, and who it is.
    assert_eq!(platform.terminate(), 0);
    edges[0].terminate();
    edges[0].launch();
    let answer = edges[0].curl(&["--header", "Host: far.dunlin.localhost"], 80, "/");
    assert!(acme.is_none() || edges[0].handshake("own.example.test", &own), "it has its certificate");
    assert!(answer.contains("PC02"), "its worker is away, too: {answer}");
    platform.launch();
    for edge in &edges {
        eventually("all is back", || edge.get("far", "/").is_some());
    }
    platform.ok(["apps", "destroy", "far", "--yes"]);
    eventually("the edge forgets it", || edges[0].get("far", "/").is_none());
}

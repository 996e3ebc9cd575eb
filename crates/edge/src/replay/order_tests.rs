//! Orders as apps write them.

use proptest::prelude::*;

use super::*;

fn line(text: &str) -> Result<ReplayOrder, BadOrder> {
    let headers = [(REPLAY, HeaderValue::from_str(text).unwrap())].into_iter().collect();
    ReplayOrder::of_headers(&headers).expect("it has an order")
}

fn lines(fields: &[(HeaderName, &'static str)]) -> Result<ReplayOrder, BadOrder> {
    let headers = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect();
    ReplayOrder::of_headers(&headers).expect("it has an order")
}

#[test]
fn every_field_is_read() {
    let order = line(
        r#"app=users; region="ams,eu";prefer_instance=4d891234567890;state=a=b, c;timeout=500ms;fallback=prefer_self"#,
    )
    .unwrap();
    assert_eq!(order.app.as_ref().unwrap().as_str(), "users");
    assert_eq!(order.regions.len(), 2);
    assert_eq!(order.prefer_instance.as_ref().unwrap().as_str(), "4d891234567890");
    assert_eq!(order.state.as_deref(), Some("a=b, c"));
    assert_eq!(order.timeout, Some(Duration::from_millis(500)));
    assert_eq!(order.fallback, Some(Fallback::PreferSelf));
    assert!(line("elsewhere=true").unwrap().elsewhere);
    assert_eq!(line("region=ams,any;").unwrap().regions.len(), 2);
}

#[test]
fn what_is_half_understood_is_refused() {
    for bad in [
        "",
        ";",
        "app",
        "state=x",
        "elsewhere=false",
        "app=users;app=others",
        "app=Users!",
        "zone=ams",
        "region=",
        "region=ams,no-where",
        "region=\"ams",
        "region=am\"s\"",
        "instance=mine",
        "instance=4d891234567890;prefer_instance=4d891234567890",
        "elsewhere=yes",
        "region=ams;timeout=5",
        "region=ams;timeout=0s",
        "region=ams;timeout=11m",
        "region=ams;timeout=-1s",
        "region=ams;fallback=other",
        "region=ams;state=\"a;b\"",
    ] {
        assert!(line(bad).is_err(), "{bad}");
    }
    assert!(lines(&[(REPLAY, "app=a"), (REPLAY, "app=b")]).is_err());
    assert!(ReplayOrder::of_headers(&HeaderMap::new()).is_none());
}

#[test]
fn a_rule_to_remember_it_by_is_read_beside_it() {
    let rule = [(REPLAY, "app=users"), (CACHE, "/users/*"), (CACHE_TTL, "60"), (CACHE_BYPASS, "yes")];
    let Some(CacheOrder::Keep(rule)) = lines(&rule).unwrap().cache else { panic!("it is kept") };
    assert_eq!((rule.pattern.path.as_str(), rule.ttl.as_secs(), rule.allow_bypass), ("/users", 60, true));
    assert_eq!(lines(&[(REPLAY, "app=a"), (CACHE, "invalidate")]).unwrap().cache, Some(CacheOrder::Invalidate));
    for bad in [
        vec![(REPLAY, "app=users"), (CACHE, "/users/*")],
        vec![(REPLAY, "app=users"), (CACHE, "/users/*"), (CACHE_TTL, "9")],
        vec![(REPLAY, "app=users"), (CACHE, "users"), (CACHE_TTL, "60")],
        vec![(REPLAY, "app=users"), (CACHE, "/"), (CACHE_TTL, "60"), (CACHE_BYPASS, "true")],
        vec![(REPLAY, "app=users;state=x"), (CACHE, "/"), (CACHE_TTL, "60")],
        vec![(REPLAY, "app=users;timeout=1s"), (CACHE, "/"), (CACHE_TTL, "60")],
    ] {
        assert!(lines(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn the_form_in_json_says_the_same_and_more() {
    let order = ReplayOrder::of_body(
        br#"{"app":"users","region":"ams,any","state":"s","timeout":"10s","fallback":"force_self",
             "transform":{"path":"/new?x=1","delete_headers":["cookie"],"set_headers":[{"name":"X-User","value":"7"}]}}"#,
    )
    .unwrap();
    assert_eq!(order.transform.path.as_ref().unwrap().as_str(), "/new?x=1");
    assert_eq!(order.transform.delete, ["cookie"]);
    assert_eq!(order.transform.set, [("x-user".parse().unwrap(), HeaderValue::from_static("7"))]);
    assert_eq!((order.fallback, order.timeout), (Some(Fallback::ForceSelf), Some(Duration::from_secs(10))));
    let kept = ReplayOrder::of_body(br#"{"elsewhere":true,"cache":{"prefix":"/a","ttl":10,"allow_bypass":true}}"#);
    assert!(matches!(kept.unwrap().cache, Some(CacheOrder::Keep(CacheRule { allow_bypass: true, .. }))));
    let forgotten = ReplayOrder::of_body(br#"{"app":"a","cache":{"invalidate":true}}"#).unwrap();
    assert_eq!(forgotten.cache, Some(CacheOrder::Invalidate));
}

#[test]
fn in_json_too_what_is_half_understood_is_refused() {
    for bad in [
        r#"{}"#,
        r#"[]"#,
        r#"{"app":"users","zone":"x"}"#,
        r#"{"app":"users","app":"others"}"#,
        r#"{"app":"users","transform":{"path":"users"}}"#,
        r#"{"app":"users","transform":{"path":"http://elsewhere/"}}"#,
        r#"{"app":"users","transform":{"delete_headers":["fly-client-ip"]}}"#,
        r#"{"app":"users","transform":{"set_headers":[{"name":"content-length","value":"1"}]}}"#,
        r#"{"app":"users","transform":{"set_headers":[{"name":"x-real_ip","value":"1"}]}}"#,
        r#"{"app":"users","transform":{"set_headers":[{"name":"a","value":"b\r\nc: d"}]}}"#,
        r#"{"app":"users","transform":{"path":"/x"},"cache":{"prefix":"/a","ttl":60}}"#,
        r#"{"app":"users","cache":{"prefix":"/a","ttl":9}}"#,
        r#"{"app":"users","cache":{"prefix":"/a"}}"#,
        r#"{"app":"users","cache":{"invalidate":true,"ttl":60}}"#,
    ] {
        assert!(ReplayOrder::of_body(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(ReplayOrder::of_body(&vec![b' '; MAX_JSON_BYTES + 1]).is_err());
}

proptest! {
    #[test]
    fn whatever_is_read_keeps_the_rules(text in "[ -~]{0,120}") {
        if let Ok(order) = line(&text) {
            prop_assert!(order.timeout.is_none_or(|timeout| !timeout.is_zero() && timeout <= MAX_TIMEOUT));
            prop_assert!(order.state.as_ref().is_none_or(|state| !state.contains([';', '"'])));
            prop_assert!(order.instance.is_none() || order.prefer_instance.is_none());
        }
    }

    #[test]
    fn a_line_of_known_fields_is_read_as_it_was_written(
        app in prop::option::of("[a-z]{3,12}"), region in prop::option::of("[a-z]{3}(,[a-z]{3}){0,2}"),
        state in prop::option::of("[a-z0-9=, ]{1,20}"), seconds in prop::option::of(1..600_u64), elsewhere: bool,
        shuffled in any::<prop::sample::Index>(),
    ) {
        let mut fields = vec![format!("elsewhere={elsewhere}")];
        fields.extend(app.as_ref().map(|app| format!("app={app}")));
        fields.extend(region.as_ref().map(|region| format!("region=\"{region}\"")));
        fields.extend(state.as_ref().map(|state| format!("state=\"{state}\"")));
        fields.extend(seconds.map(|seconds| format!("timeout={seconds}s")));
        let start = shuffled.index(fields.len());
        fields.rotate_left(start);
        let read = line(&fields.join(";"));
        if app.is_none() && region.is_none() && !elsewhere {
            prop_assert_eq!(read, Err(BadOrder::Nowhere));
            return Ok(());
        }
        let order = read.unwrap();
        prop_assert_eq!(order.app.map(String::from), app);
        prop_assert_eq!(order.regions.len(), region.map_or(0, |list| list.split(',').count()));
        prop_assert_eq!(order.state, state);
        prop_assert_eq!(order.timeout, seconds.map(Duration::from_secs));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = ReplayOrder::of_body(&bytes);
    }
}

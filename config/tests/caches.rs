//! What right caches of routes mean.

use forebay_config::gateway::{Cache, Gateway};

#[test]
fn a_cache_is_as_small_as_it_is_told() {
    let cache = |text: &str| {
        let head = "listeners = [{ address = '127.0.0.1:0' }]\n\
                    clusters = [{ name = 'w', endpoints = ['127.0.0.1:8001'] }]\n";
        let text = format!("{head}[[routes]]\ncluster = 'w'\n{text}\n");
        Gateway::parse(&text).unwrap().routes[0].cache.clone()
    };
    assert_eq!(cache(""), None);
    assert_eq!(cache("cache = false"), None);
    assert_eq!(cache("cache = true"), Some(Cache::default()));
    let small = cache("cache = { size = '64KiB', vary = ['X-B', 'x-a'] }").unwrap();
    assert_eq!(small.max_entry_bytes, 64 << 10);
    assert_eq!(small.vary, ["x-a", "x-b"]);
}

use forebay_config::worker::Model;

use super::*;

fn options(pairs: &[(&str, &str)]) -> Options {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

fn session() -> SessionOptions {
    SessionOptions::new(&Model::default(), 3)
}

#[test]
fn auto_tries_cuda_only_where_the_library_has_it() {
    let order = |provider, cuda| Placement::order(provider, |_| cuda);
    assert_eq!(order(Provider::Auto, false), [Placement::Cpu]);
    assert_eq!(
        order(Provider::Auto, true),
        [Placement::Cuda, Placement::Cpu]
    );
    assert_eq!(order(Provider::Cuda, false), [Placement::Cuda]);
    assert_eq!(order(Provider::TensorRt, false), [Placement::TensorRt]);
    assert_eq!(order(Provider::OpenVino, false), [Placement::OpenVino]);
    assert_eq!(order(Provider::Cpu, true), [Placement::Cpu]);
}

#[test]
fn a_provider_without_a_node_does_not_run_the_model() {
    let share = |provider: &str, nodes| NodeShare {
        provider: provider.to_owned(),
        nodes,
    };
    let cpu = share("CPUExecutionProvider", 7);
    let mixed = [cpu.clone(), share("CUDAExecutionProvider", 1)];
    assert_eq!(Placement::Cuda.check_share(&mixed), Ok(()));
    assert_eq!(Placement::Cuda.check_share(&[]), Ok(()), "nothing to run");
    assert_eq!(
        Placement::Cpu.check_share(std::slice::from_ref(&cpu)),
        Ok(())
    );
    let error = Placement::Cuda.check_share(&[cpu]).unwrap_err();
    assert!(error.contains("7 nodes"), "{error}");
}

#[test]
fn tensorrt_gets_caches_profile_and_device() {
    let session = session();
    let inputs = [("ids".to_owned(), Some(vec![-1, 128]))];
    let profile = Profile::of(&inputs, 32).unwrap();
    let request = Request {
        options: &session,
        device: Some(2),
        profile: Some(&profile),
    };
    let configured = options(&[
        ("trt_engine_cache_path", "/cache"),
        ("trt_fp16_enable", "1"),
    ]);
    assert_eq!(
        tensorrt_options(&configured, &request).unwrap(),
        options(&[
            ("device_id", "2"),
            ("trt_engine_cache_enable", "1"),
            ("trt_engine_cache_path", "/cache"),
            ("trt_fp16_enable", "1"),
            ("trt_profile_max_shapes", "ids:32x128"),
            ("trt_profile_min_shapes", "ids:1x128"),
            ("trt_profile_opt_shapes", "ids:32x128"),
        ])
    );
    let own = options(&[("trt_profile_min_shapes", "ids:1x8")]);
    let set = tensorrt_options(&own, &request).unwrap();
    assert!(!set.contains_key("trt_profile_max_shapes"), "all or none");
}

#[test]
fn a_profile_needs_shapes_that_are_free_in_the_rows_alone() {
    let input = |shape: Option<Vec<i64>>| ("x".to_owned(), shape);
    for shape in [Some(vec![-1, -1]), Some(vec![4, 2]), Some(vec![]), None] {
        assert_eq!(Profile::of(&[input(Some(vec![-1])), input(shape)], 8), None);
    }
    assert_eq!(Profile::of(&[], 8), None);
}

#[test]
fn openvino_runs_on_the_cpu_with_the_threads_of_the_session_unless_told_otherwise() {
    let session = session();
    let request = |device| Request {
        options: &session,
        device,
        profile: None,
    };
    let set = openvino_options(&Options::new(), &request(None)).unwrap();
    assert_eq!(
        set,
        options(&[("device_type", "CPU"), ("num_of_threads", "3")])
    );
    let gpu = options(&[("device_type", "GPU"), ("num_of_threads", "1")]);
    let set = openvino_options(&gpu, &request(Some(1))).unwrap();
    assert_eq!(
        set,
        options(&[("device_type", "GPU.1"), ("num_of_threads", "1")])
    );
    let error = openvino_options(&Options::new(), &request(Some(1))).unwrap_err();
    assert!(error.contains("device 1"), "{error}");
}

#[test]
fn options_that_hand_over_addresses_or_stand_elsewhere_are_refused() {
    let session = session();
    let request = Request {
        options: &session,
        device: None,
        profile: None,
    };
    for (key, part) in [
        ("device_id", "'devices'"),
        ("user_compute_stream", "address of memory"),
        ("", "is empty"),
        ("a\0b", "NUL"),
    ] {
        let error = tensorrt_options(&options(&[(key, "1")]), &request).unwrap_err();
        assert!(error.contains(part), "{error}");
    }
    let error = openvino_options(&options(&[("context", "1")]), &request).unwrap_err();
    assert!(error.contains("'context'"), "{error}");
}

#[test]
fn a_refusal_names_the_options_that_may_have_led_to_it() {
    let refused = |pairs, known: &[&str]| with_options("no".to_owned(), &options(pairs), known);
    assert_eq!(refused(&[], &OPENVINO_OPTIONS), "no");
    assert_eq!(
        refused(&[("device_type", "X"), ("tpyo", "1")], &OPENVINO_OPTIONS),
        "no; unknown option 'tpyo'"
    );
    assert_eq!(
        refused(&[("device_type", "X")], &OPENVINO_OPTIONS),
        "no; its options were device_type = 'X'"
    );
    assert_eq!(
        refused(&[("tpyo", "1")], &[]),
        "no; its options were tpyo = '1'"
    );
}

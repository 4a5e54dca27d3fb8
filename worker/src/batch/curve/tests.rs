use super::*;

fn curve(max_rows: usize, milliseconds: &[(usize, u64)]) -> Curve {
    let mut curve = Curve::new(max_rows);
    for (rows, duration) in milliseconds {
        for _ in 0..SAMPLES_TO_KNOW {
            curve.record(*rows, Duration::from_millis(*duration));
        }
    }
    curve
}

#[test]
fn an_unknown_curve_takes_what_may_go() {
    assert_eq!(Curve::new(32).best_size(7), 7);
    assert_eq!(Curve::new(32).duration(4), None);
}

#[test]
fn sizes_are_powers_of_two_and_the_maximum() {
    assert_eq!(sizes(12).collect::<Vec<_>>(), [1, 2, 4, 8, 12]);
    assert_eq!(sizes(8).collect::<Vec<_>>(), [1, 2, 4, 8]);
    assert_eq!(sizes(1).collect::<Vec<_>>(), [1]);
    assert_eq!(sizes(0).collect::<Vec<_>>(), [1]);
}

#[test]
fn batching_that_loses_is_not_done() {
    let curve = curve(8, &[(1, 10), (2, 28), (4, 56), (8, 100)]);
    assert_eq!(curve.best_size(8), 1);
}

#[test]
fn the_middle_may_be_best() {
    let curve = curve(
        32,
        &[(1, 10), (2, 16), (4, 28), (8, 64), (16, 160), (32, 400)],
    );
    assert_eq!(curve.best_size(32), 4);
    assert_eq!(
        curve.best_size(3),
        3,
        "below the best size everything goes at once"
    );
    assert_eq!(curve.best_size(2), 2);
}

#[test]
fn of_equal_sizes_the_smaller_wins() {
    let curve = curve(8, &[(1, 10), (2, 20), (4, 40), (8, 80)]);
    assert_eq!(curve.best_size(8), 1);
}

#[test]
fn interpolates_and_extrapolates() {
    let curve = curve(16, &[(4, 40), (8, 60)]);
    let milliseconds = |rows| curve.duration(rows).unwrap().as_secs_f64() * 1000.0;
    for (rows, expected) in [(4, 40.0), (6, 50.0), (8, 60.0), (16, 120.0), (2, 20.0)] {
        assert!(
            (milliseconds(rows) - expected).abs() < 0.01,
            "{rows}: {}",
            milliseconds(rows)
        );
    }
}

#[test]
fn learns_by_trying_and_stops_at_hopeless_sizes() {
    let cost =
        |rows: usize| Duration::from_micros(if rows <= 2 { 100 } else { 1000 } * rows as u64);
    let mut curve = Curve::new(64);
    let mut tried = Vec::new();
    for _ in 0..40 {
        let rows = curve.choose(64);
        tried.push(rows);
        curve.record(rows, cost(rows));
    }
    assert!(
        tried.contains(&4),
        "the first bad size must be measured: {tried:?}"
    );
    assert!(
        !tried.contains(&8),
        "sizes beyond a hopeless one are not tried: {tried:?}"
    );
    assert_eq!(curve.best_size(64), 1);
}

#[test]
fn a_wrong_figure_is_corrected_by_probing() {
    let mut curve = curve(2, &[(1, 10), (2, 40)]);
    let true_cost = |rows: usize| Duration::from_millis(if rows == 1 { 10 } else { 12 });
    let mut last = 0;
    for _ in 0..PROBE_EVERY.end() * 5 {
        last = curve.choose(2);
        curve.record(last, true_cost(last));
    }
    assert_eq!(curve.best_size(2), 2);
    assert!(last <= 2);
}

/// A machine on which the first run at another size than before takes `switch` times as long. The time that so many
/// batches take, and how many rows they have.
fn serve(
    curve: &mut Curve,
    batches: u32,
    switch: f64,
    milliseconds: &[(usize, f64)],
) -> (f64, f64) {
    let (mut before, mut took, mut rows) = (0, 0.0, 0.0);
    let largest = milliseconds.last().unwrap().0;
    for _ in 0..batches {
        let chosen = curve.choose(largest);
        let cost = milliseconds.iter().find(|(size, _)| *size == chosen);
        let steady = cost.unwrap().1;
        let this = if before == chosen {
            steady
        } else {
            steady * switch
        };
        curve.record(chosen, Duration::from_secs_f64(this / 1e3));
        (before, took, rows) = (chosen, took + this, rows + chosen as f64);
    }
    (took, rows)
}

#[test]
fn a_size_is_not_held_to_be_slow_because_it_is_rarely_run() {
    // Its first runs were a little slow, and each switch to it costs more than it gains.
    let mut curve = curve(2, &[(1, 1000), (2, 2020)]);
    serve(&mut curve, 1000, 1.1, &[(1, 1000.0), (2, 1940.0)]);
    assert_eq!(curve.best_size(2), 2);
}

#[test]
fn a_close_call_is_settled_within_seconds() {
    let mut curve = curve(4, &[(1, 660), (2, 1300), (4, 2800)]);
    assert_eq!(curve.best_size(4), 2);
    serve(
        &mut curve,
        200,
        1.0,
        &[(1, 650.0), (2, 1330.0), (4, 2700.0)],
    );
    assert_eq!(curve.best_size(4), 1);
}

#[test]
fn trying_other_sizes_costs_next_to_nothing() {
    for (one, two, four) in [(10.0, 28.0, 60.0), (10.0, 20.6, 42.0), (10.0, 16.0, 34.0)] {
        let costs = [(1, one), (2, two), (4, four)];
        let whole = costs.map(|(rows, cost)| (rows, cost as u64));
        let mut curve = curve(4, &whole);
        let best = costs.iter().map(|(rows, cost)| cost / *rows as f64);
        let best = best.fold(f64::INFINITY, f64::min);
        let (took, rows) = serve(&mut curve, 10_000, 1.0, &costs);
        assert!(
            took < rows * best * 1.01,
            "{costs:?}: {}",
            took / rows / best
        );
    }
}

#[test]
fn a_slower_machine_does_not_make_other_sizes_look_better() {
    let mut curve = curve(8, &[(1, 10), (2, 18), (4, 32), (8, 70)]);
    for _ in 0..20 {
        curve.record(4, Duration::from_millis(32));
    }
    for step in 0..60u64 {
        let rows = curve.best_size(8);
        assert_eq!(rows, 4, "left the best size at step {step}");
        curve.record(
            4,
            Duration::from_micros(32_000 + 32_000 * 4 * step.min(10) / 100),
        );
    }
    let expected = curve.duration(4).unwrap();
    assert!(
        expected > Duration::from_millis(43),
        "follows the machine: {expected:?}"
    );
    assert!(
        curve.duration(8).unwrap() > Duration::from_millis(85),
        "and takes the others along"
    );
}

#[test]
fn weight_classes_are_apart() {
    let mut curves = Curves::new(4);
    for _ in 0..2 {
        for (rows, short, long) in [(1, 10, 100), (2, 12, 300), (4, 14, 900)] {
            curves.record(256, rows, Duration::from_millis(short));
            curves.record(4096, rows, Duration::from_millis(long));
        }
    }
    assert_eq!(curves.choose(300, 4), 4);
    assert_eq!(curves.choose(5000, 4), 1);
    assert!(curves.of(1 << 20).is_none());
}

proptest::proptest! {
    #[test]
    fn never_more_than_allowed_and_never_slower_per_row_than_a_smaller_size(
        samples in proptest::collection::vec((1usize..80, 1u64..100_000), 0..200),
        max_rows in 1usize..70,
        limit in 1usize..70,
    ) {
        let mut curve = Curve::new(max_rows);
        for (rows, micros) in samples {
            curve.record(rows, Duration::from_micros(micros));
        }
        let best = curve.best_size(limit);
        proptest::prop_assert!((1..=limit).contains(&best));
        if curve.points.iter().any(|point| point.known() && point.rows <= limit) {
            let per_row = curve.seconds(best).unwrap() / best as f64;
            for point in curve.points.iter().filter(|point| point.known() && point.rows < best) {
                proptest::prop_assert!(per_row <= curve.per_row(point) * SAME * 1.000001);
            }
        }
        proptest::prop_assert!((1..=limit).contains(&curve.choose(limit)));
    }
}

#[test]
fn large_requests_go_whole_where_that_costs_little() {
    let loses = curve(16, &[(1, 10), (2, 16), (4, 28), (8, 58), (16, 200)]);
    assert_eq!(loses.best_size(16), 4);
    assert_eq!((loses.whole(16), loses.enough(16)), (8, 4));
    let gains = curve(16, &[(1, 10), (2, 11), (4, 13), (8, 17), (16, 25)]);
    assert_eq!((gains.whole(16), gains.enough(16)), (16, 16));
    let flat = curve(16, &[(1, 10), (2, 20), (4, 40), (8, 80), (16, 160)]);
    assert_eq!((flat.whole(16), flat.enough(16)), (16, 1));
    assert_eq!(
        (Curve::new(16).whole(16), Curve::new(16).enough(16)),
        (16, 0)
    );
}

#[test]
fn the_largest_size_within_a_time() {
    let curve = curve(16, &[(1, 10), (2, 16), (4, 28), (8, 50), (16, 100)]);
    let within = |limit, milliseconds| curve.within(limit, Duration::from_millis(milliseconds));
    assert_eq!(within(16, 100), Some(16));
    assert_eq!(within(16, 99), Some(8));
    assert_eq!(within(7, 45), Some(7));
    assert_eq!(within(7, 40), Some(4));
    assert_eq!(within(7, 9), None);
    assert_eq!(Curve::new(16).within(5, Duration::ZERO), Some(5));
}

#[test]
fn a_duration_seen_once_is_not_trusted() {
    let mut curve = Curve::new(8);
    curve.record(1, Duration::from_millis(10));
    assert!(curve.duration(1).is_some() && curve.trusted(1).is_none());
    curve.record(1, Duration::from_millis(10));
    assert!(curve.trusted(1).is_some());
    assert_eq!(curve.trusted(8), None, "the size at hand was never seen");
}

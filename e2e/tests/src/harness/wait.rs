//! Waiting for what must become true, with an end. Nothing is taken for true because time went by.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::Fallible;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Looks until `look` gives a value. Its errors say what is still missing; the last of them is told when the time is over.
///
/// # Errors
/// It did not become true in time.
pub async fn until<T, F, R>(what: &str, limit: Duration, look: F) -> Fallible<T>
where
    F: FnMut() -> R,
    R: Future<Output = Fallible<T>>,
{
    until_every(what, limit, LOOK, look).await
}

/// The same with a pause of one's own, for what is measured.
///
/// # Errors
/// It did not become true in time.
pub async fn until_every<T, F, R>(what: &str, limit: Duration, pause: Duration, mut look: F) -> Fallible<T>
where
    F: FnMut() -> R,
    R: Future<Output = Fallible<T>>,
{
    let begin = Instant::now();
    let mut last = String::from("nothing was seen");
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        match timeout(left, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(why)) => last = why,
            Err(_) => {}
        }
        if begin.elapsed() + pause >= limit {
            return Err(format!("{what}: not within {} s; {last}", limit.as_secs_f32()));
        }
        sleep(pause).await;
    }
}

/// Sees that something stays as it is for so long.
///
/// # Errors
/// It did not.
pub async fn stays<F, R>(what: &str, time: Duration, mut look: F) -> Fallible<()>
where
    F: FnMut() -> R,
    R: Future<Output = Fallible<()>>,
{
    let begin = Instant::now();
    while begin.elapsed() < time {
        look().await.map_err(|why| format!("{what}: after {:.1} s: {why}", begin.elapsed().as_secs_f32()))?;
        sleep(LOOK).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn what_becomes_true_is_seen_and_what_does_not_says_why() {
        let looks = Cell::new(0);
        let short = Duration::from_millis(1);
        let found = block(until_every("three", Duration::from_secs(5), short, || {
            looks.set(looks.get() + 1);
            let seen = looks.get();
            async move { if seen == 3 { Ok(seen) } else { Err(format!("{seen} seen")) } }
        }));
        assert_eq!(found, Ok(3));
        let never = block(until_every::<(), _, _>("it", short * 10, short, || async { Err("still red".to_owned()) }));
        assert!(never.unwrap_err().ends_with("still red"));
        let hangs = block(until_every::<(), _, _>("it", short * 10, short, std::future::pending));
        assert!(hangs.is_err());
        assert!(block(stays("it", short, || async { Err("gone".to_owned()) })).is_err());
    }
}

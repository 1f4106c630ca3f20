//! Answers that may be large, written while they are sent: a page at a time, on a thread of
//! their own and no faster than they are read, so that neither a tree nor the whole text of
//! ten thousand machines is ever in memory, and the loop has long gone on.

use std::{io, time::Duration};

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde::Serialize;
use tokio::{sync::mpsc, task, time::timeout};

use super::Problem;

/// How many bytes are written before they are handed on.
pub(super) const PAGE: usize = 64 * 1024;

/// Writes the next element behind what stands there; `None` after the last.
type Next = Box<dyn FnMut(&mut Vec<u8>) -> Option<serde_json::Result<()>>>;

/// A JSON array whose elements are made one by one.
pub struct Rows(Box<dyn FnOnce() -> Result<Next, Problem> + Send>);

impl Rows {
    /// What `begin` gives, element by element. It is called on a thread that may take its
    /// time; nothing has been sent when it fails.
    pub fn new<I>(begin: impl FnOnce() -> Result<I, Problem> + Send + 'static) -> Self
    where
        I: IntoIterator + 'static,
        I::Item: Serialize,
    {
        Self(Box::new(|| {
            let mut rows = begin()?.into_iter();
            Ok(Box::new(move |page| {
                Some(serde_json::to_writer(page, &rows.next()?))
            }))
        }))
    }

    fn write(self, pages: &mpsc::Sender<Page>) -> Result<(), Ended> {
        let mut next = match (self.0)() {
            Ok(next) => next,
            Err(problem) => return hand_on(pages, Err(problem)),
        };
        let mut page = b"[".to_vec();
        let mut between = &b""[..];
        loop {
            let whole = page.len();
            page.extend_from_slice(between);
            match next(&mut page) {
                Some(Ok(())) => between = b",",
                Some(Err(error)) => {
                    let problem = Problem::new(500, "an answer that cannot be written", error);
                    return hand_on(pages, Err(problem));
                }
                None => {
                    page.truncate(whole);
                    page.push(b']');
                    return hand_on(pages, Ok(page.into()));
                }
            }
            if page.len() >= PAGE {
                // With what a page has beyond its size, the next one need not grow.
                let full = std::mem::replace(&mut page, Vec::with_capacity(PAGE + PAGE / 8));
                hand_on(pages, Ok(full.into()))?;
            }
        }
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rows")
    }
}

/// A part of a body, or why there is none.
pub(super) type Page = Result<Bytes, Problem>;

/// Whoever read it is gone.
#[derive(Debug)]
pub(super) struct Ended;

/// Waits until the page before was taken.
pub(super) fn hand_on(pages: &mpsc::Sender<Page>, page: Page) -> Result<(), Ended> {
    pages.blocking_send(page).map_err(|_| Ended)
}

/// The array as a body, or why it cannot be begun. Where it fails later, the body breaks off,
/// which no reader takes for its end.
pub(super) async fn array(rows: Rows, patience: Duration) -> Result<Body, Problem> {
    body(patience, |pages| rows.write(pages)).await
}

/// What `write` hands on, as a body, from when its first page is there.
pub(super) async fn body(
    patience: Duration,
    write: impl FnOnce(&mpsc::Sender<Page>) -> Result<(), Ended> + Send + 'static,
) -> Result<Body, Problem> {
    let (pages, mut written) = mpsc::channel(1);
    task::spawn_blocking(move || {
        // It ends early when the reader is gone, and then there is nobody to tell.
        let _ = write(&pages);
    });
    let first = timeout(patience, written.recv()).await.map_err(|_| {
        let seconds = patience.as_secs();
        Problem::new(
            504,
            "no answer in time",
            format!("the answer was not begun within {seconds} s: the disk may be busy; ask again"),
        )
    })?;
    let first = first.unwrap_or_else(|| {
        Err(Problem::new(
            500,
            "no answer",
            "what writes it ended; this is a defect of meterd, and its log says more",
        ))
    })?;
    let mut first = Some(first);
    Ok(Body::from_stream(stream::poll_fn(move |context| {
        if let Some(first) = first.take() {
            return std::task::Poll::Ready(Some(Ok(first)));
        }
        let page = written.poll_recv(context);
        page.map(|page| page.map(|page| page.map_err(io::Error::other)))
    })))
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use futures_util::StreamExt;
    use serde_json::{Value, json};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// What a body's pages are, and whether it came to its end.
    async fn pages(body: Body) -> (Vec<Bytes>, bool) {
        let (mut pages, mut whole) = (Vec::new(), true);
        let mut body = body.into_data_stream();
        while let Some(page) = body.next().await {
            match page {
                Ok(page) => pages.push(page),
                Err(_) => whole = false,
            }
        }
        (pages, whole)
    }

    #[tokio::test]
    async fn an_array_of_any_length_is_the_same_array_in_small_pages() {
        for count in [0, 1, 2, 10_000] {
            let rows = (0..count).map(|number| json!({ "number": number, "more": "x".repeat(40) }));
            let all: Vec<Value> = rows.clone().collect();
            let body = array(Rows::new(move || Ok(rows)), PATIENCE).await.unwrap();
            let (pages, whole) = pages(body).await;
            assert!(whole);
            assert!(pages.iter().all(|page| page.len() < PAGE + 256));
            assert_eq!(pages.len() > 1, count == 10_000);
            let read: Value = serde_json::from_slice(&pages.concat()).unwrap();
            assert_eq!(read, Value::Array(all));
        }
    }

    #[tokio::test]
    async fn no_more_is_written_than_is_read_and_nothing_for_a_reader_who_is_gone() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let rows = (0..1_000_000).map(move |number| {
            count.fetch_add(1, Ordering::Relaxed);
            format!("{number:0>1000}")
        });
        let body = array(Rows::new(move || Ok(rows)), PATIENCE).await.unwrap();
        let mut body = body.into_data_stream();
        for _ in 0..10 {
            body.next().await.unwrap().unwrap();
        }
        drop(body);
        while Arc::strong_count(&made) > 1 {
            task::yield_now().await;
        }
        let made = made.load(Ordering::Relaxed);
        assert!(made < 15 * PAGE / 1_000, "{made} elements for ten pages");
    }

    #[tokio::test]
    async fn what_cannot_begin_is_a_problem_and_what_fails_later_breaks_off() {
        let refused = || Err::<Vec<u8>, _>(Problem::new(503, "no", "the disk is gone"));
        let problem = array(Rows::new(refused), PATIENCE).await.unwrap_err();
        assert_eq!((problem.status, problem.title.as_str()), (503, "no"));

        // A map with such keys is no JSON.
        let bad = std::collections::BTreeMap::from([(vec![1], 2)]);
        let rows = (0..100_000).map(move |at| {
            if at < 90_000 {
                Ok(at)
            } else {
                Err(bad.clone())
            }
        });
        let body = array(Rows::new(move || Ok(rows)), PATIENCE).await.unwrap();
        let (pages, whole) = pages(body).await;
        assert!(!pages.is_empty() && !whole);
    }
}

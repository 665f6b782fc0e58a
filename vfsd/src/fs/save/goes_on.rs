//! A commit goes on when its caller is killed: the future that waits for it is dropped, its steps are not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

type Steps<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Steps that go on by themselves when nobody waits for them any more.
pub(super) struct GoesOn<T: 'static> {
    steps: Option<Steps<T>>,
    is_awaited: Arc<AtomicBool>,
    runtime: tokio::runtime::Handle,
}

impl<T> GoesOn<T> {
    /// The steps can ask whether anybody waits for them still.
    pub(super) fn new<Rest: Future<Output = T> + Send + 'static>(
        runtime: tokio::runtime::Handle,
        steps: impl FnOnce(Arc<AtomicBool>) -> Rest,
    ) -> Self {
        let is_awaited = Arc::new(AtomicBool::new(true));
        Self {
            steps: Some(Box::pin(steps(Arc::clone(&is_awaited)))),
            is_awaited,
            runtime,
        }
    }
}

impl<T> Future for GoesOn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let steps = self.steps.as_mut().expect("not polled after its end");
        let outcome = std::task::ready!(steps.as_mut().poll(context));
        self.steps = None;
        Poll::Ready(outcome)
    }
}

impl<T> Drop for GoesOn<T> {
    fn drop(&mut self) {
        if let Some(steps) = self.steps.take() {
            self.is_awaited.store(false, Ordering::Release);
            self.runtime.spawn(async move {
                steps.await;
            });
        }
    }
}

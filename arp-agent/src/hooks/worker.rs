//! A thread for jobs that wait under the RTNL lock: attaching or detaching a program by tcx takes a grace period each.
//! The agent goes on meanwhile. Between two jobs the thread pauses, so that others who wait for the lock get it.

use super::bpf_syscalls::HookLink;
use crate::dataplane::bpf::programs::EntryProgram;
use crate::descriptors;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long others have the lock to themselves between two jobs: as long as a change of a route or a link takes.
const PAUSE: Duration = Duration::from_millis(2);

/// A job for the thread.
enum Job {
    Attach { ifindex: u32, number: u64, entry: EntryProgram, before: Option<HookLink> },
    LetGo(HookLink),
}

/// The result of a job.
pub(crate) struct JobDone {
    /// The interface.
    pub ifindex: u32,
    /// The number that [`Worker::attach`] gave.
    pub number: u64,
    /// The program that is attached.
    pub entry: EntryProgram,
    /// The link.
    pub link: io::Result<HookLink>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    news: Condvar,
}

/// How a program is attached to an interface by tcx.
type Attach = fn(BorrowedFd<'_>, u32) -> io::Result<HookLink>;

/// The thread, and its queue.
pub(crate) struct Worker {
    queue: Arc<Queue>,
    done: UnboundedReceiver<JobDone>,
    number: u64,
}

impl Worker {
    /// Starts it in the calling thread's network namespace; it attaches by `how`.
    ///
    /// # Errors
    /// No thread can be created.
    pub(crate) fn start(how: Attach) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let (tell, done) = unbounded_channel();
        let theirs = Arc::clone(&queue);
        thread::Builder::new().name("attach".into()).spawn(move || work(how, &theirs, &tell))?;
        Ok(Worker { queue, done, number: 0 })
    }

    /// Has a program attached to an interface by tcx: before all that waits if it is `urgent`, and after `before`, the
    /// link by which it is attached already, has let go: the kernel takes no program twice. Gives a number by which the
    /// outcome is known.
    pub(crate) fn attach(&mut self, ifindex: u32, entry: EntryProgram, urgent: bool, before: Option<HookLink>) -> u64 {
        self.number += 1;
        self.push(Job::Attach { ifindex, number: self.number, entry, before }, urgent);
        self.number
    }

    /// Queues a link to be closed, which detaches its program.
    pub(crate) fn detach_from(&self, link: HookLink) {
        self.push(Job::LetGo(link), false);
    }

    /// Waits for the next result, success or failure. May be dropped while it waits.
    pub(crate) async fn done(&mut self) -> JobDone {
        match self.done.recv().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    fn push(&self, job: Job, urgent: bool) {
        let mut jobs = self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if urgent {
            jobs.0.push_front(job)
        } else {
            jobs.0.push_back(job)
        }
        self.queue.news.notify_one();
    }
}

/// Jobs that wait are not done: their links go with their descriptors.
impl Drop for Worker {
    fn drop(&mut self) {
        let mut jobs = self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        *jobs = (VecDeque::new(), true);
        self.queue.news.notify_one();
    }
}

fn work(how: Attach, queue: &Queue, tell: &UnboundedSender<JobDone>) {
    loop {
        let job = {
            let mut jobs = queue.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if jobs.1 {
                    return;
                }
                match jobs.0.pop_front() {
                    Some(job) => break job,
                    None => jobs = queue.news.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                }
            }
        };
        match job {
            Job::Attach { ifindex, number, entry, before } => {
                drop(before);
                let link = match descriptors::too_few() {
                    None => how(entry.program.as_fd(), ifindex),
                    Some(too_few) => Err(io::Error::other(too_few)),
                };
                // Nobody hears it: the agent ends, and the link goes with the message.
                let _ = tell.send(JobDone { ifindex, number, entry, link });
            }
            Job::LetGo(link) => drop(link),
        }
        thread::sleep(PAUSE);
    }
}

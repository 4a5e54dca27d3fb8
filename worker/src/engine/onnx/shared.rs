//! A session that several instances may run at the same time.
//!
//! ONNX Runtime guarantees that `Run` may be called from many threads at once, and the CPU provider keeps to it;
//! so on the CPU all instances of a model run one session and share its weights, packed weights and threads.
//! Other providers get a session for each instance: some of them break the promise, and each has a stream or a
//! device of its own anyway.
//!
//! The binding demands a session for oneself alone because of those providers; hence the call of the C API here.

use std::ffi::{CStr, CString};
use std::ptr::NonNull;

use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{RunOptions, Session, SessionInputValue};
use ort::value::DynValue;
use ort::{AsPointer, sys};

pub(super) struct SharedSession {
    session: Session,
    /// As `Signature::inputs`.
    inputs: Vec<CString>,
    outputs: Vec<CString>,
}

impl SharedSession {
    /// # Errors
    /// A name with a NUL character.
    pub(super) fn new(session: Session) -> Result<Self, String> {
        let initializers = session.overridable_initializers();
        let names = session.inputs().iter().map(|input| input.name());
        let defaults = initializers.iter().map(|initializer| initializer.name());
        let inputs = names
            .chain(defaults)
            .map(c_name)
            .collect::<Result<_, _>>()?;
        let outputs = session.outputs().iter().map(|output| c_name(output.name()));
        Ok(Self {
            inputs,
            outputs: outputs.collect::<Result<_, _>>()?,
            session,
        })
    }

    /// Computes `wanted` (indexes into the outputs), in this order, from inputs paired with their index.
    ///
    /// # Errors
    /// An index that does not exist, or what ONNX Runtime says.
    pub(super) fn run(
        &self,
        feed: &[(usize, SessionInputValue<'_>)],
        wanted: &[usize],
        options: &RunOptions,
    ) -> ort::Result<Vec<DynValue>> {
        let missing = |kind, index| ort::Error::new(format!("the model has no {kind} {index}"));
        let mut names = Vec::with_capacity(feed.len() + wanted.len());
        let mut values = Vec::with_capacity(feed.len());
        for (index, value) in feed {
            let name = self.inputs.get(*index);
            names.push(name.ok_or_else(|| missing("input", *index))?.as_ptr());
            values.push(value.ptr());
        }
        for index in wanted {
            let name = self.outputs.get(*index);
            names.push(name.ok_or_else(|| missing("output", *index))?.as_ptr());
        }
        let (inputs, outputs) = names.split_at(feed.len());
        let mut results = vec![std::ptr::null_mut(); outputs.len()];
        self.call(inputs, &values, options, (outputs, &mut results))?;
        let results = results.into_iter().map(|result| {
            let result = NonNull::new(result);
            let result = result.ok_or_else(|| ort::Error::new("an output was not computed"))?;
            Ok(self.own(result))
        });
        results.collect()
    }

    #[expect(unsafe_code, reason = "the binding runs a session for one thread only")]
    fn call(
        &self,
        inputs: &[*const std::ffi::c_char],
        values: &[*const sys::OrtValue],
        options: &RunOptions,
        (outputs, results): (&[*const std::ffi::c_char], &mut [*mut sys::OrtValue]),
    ) -> ort::Result<()> {
        // SAFETY: the C API lets any number of threads run one session, and only the CPU provider, which allows it
        // as well, is used by more than one. Names are strings with an end that `self` owns, values are borrowed by
        // the caller; all outlive the call, which keeps none of them. There are as many names as values, and as
        // many places for results, all null, as names of outputs.
        unsafe {
            ort::Error::result_from_status((ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.ptr(),
                inputs.as_ptr(),
                values.as_ptr(),
                values.len(),
                outputs.as_ptr(),
                outputs.len(),
                results.as_mut_ptr(),
            ))
        }
    }

    #[expect(unsafe_code, reason = "the results of the call of the C API above")]
    fn own(&self, result: NonNull<sys::OrtValue>) -> DynValue {
        // SAFETY: `Run` gave this value to us, once, and it holds on to the allocator it was made with.
        unsafe { DynValue::from_ptr(result, Some(self.session.allocator())) }
    }

    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Bytes that the session's arena has taken from the system: weights, packed weights, and what runs needed.
    /// `None` if it has no arena or the provider does not count.
    pub(super) fn arena_bytes(&self) -> Option<u64> {
        let device = AllocationDevice::CPU;
        let info = MemoryInfo::new(device, 0, AllocatorType::Arena, MemoryType::Default).ok()?;
        let allocator = Allocator::new(&self.session, info).ok()?;
        statistic(&allocator, c"TotalAllocated")
    }
}

#[expect(
    unsafe_code,
    reason = "the binding does not offer this question of the C API"
)]
fn statistic(allocator: &Allocator, name: &CStr) -> Option<u64> {
    let api = ort::api();
    let mut pairs = std::ptr::null_mut();
    // SAFETY: the allocator is alive during the call. The pairs belong to us and are released once; the value
    // points into them and is read before that.
    unsafe {
        let asked = (api.AllocatorGetStats)(allocator.ptr(), &mut pairs);
        ort::Error::result_from_status(asked).ok()?;
        let pairs = NonNull::new(pairs)?;
        let value = (api.GetKeyValue)(pairs.as_ptr(), name.as_ptr());
        let number = (!value.is_null())
            .then(|| CStr::from_ptr(value).to_str().ok()?.parse().ok())
            .flatten();
        (api.ReleaseKeyValuePairs)(pairs.as_ptr());
        number
    }
}

fn c_name(name: &str) -> Result<CString, String> {
    CString::new(name).map_err(|_| format!("the name '{name}' has a NUL character"))
}

//! The console: a 16550 at COM1.

use super::{Context, Device, DeviceId, DeviceStateError, Interrupt, decode, encode};
use crate::machine::inputs::InputError;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial, Trigger};

/// COM1.
pub(crate) const SERIAL_PORTS: Range<u64> = 0x3f8..0x400;

const ID: DeviceId = DeviceId(1);

/// Registers, and bits of theirs.
const DATA: u8 = 0;
const INTERRUPT_ID: u8 = 2;
const LINE_STATUS: u8 = 5;
const DATA_READY: u8 = 1;
/// In the line control register: the data register is another one.
const DIVISOR_LATCH: u8 = 0x80;

/// Read from the interrupt identification register: bytes were received; FIFOs are on.
const RECEIVED: u8 = 0xc4;

/// In the interrupt enable register: tell of received bytes.
const RECEIVE_INTERRUPT: u8 = 1;

/// Notes that the UART has raised its interrupt. Guests without interrupts never ask.
#[derive(Debug, Clone, Default)]
struct Raised(Arc<AtomicBool>);

impl Trigger for Raised {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// The UART. Bytes sent wait in its writer only until the end of the access.
pub(crate) struct SerialDevice {
    uart: Serial<Raised, NoEvents, Vec<u8>>,
    raised: Raised,
    /// It has an interrupt line. Without one, its driver looks by itself.
    has_line: bool,
    /// The driver wants to be told of what comes.
    listens: bool,
}

/// The saved format: the UART's registers and its receive queue.
#[derive(Serialize, Deserialize)]
struct SavedSerial {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

impl Default for SerialDevice {
    fn default() -> Self {
        let raised = Raised::default();
        Self { uart: Serial::new(raised.clone(), Vec::new()), raised, has_line: false, listens: false }
    }
}

impl SerialDevice {
    /// Moves console input that has arrived into the receive queue, as far as that has room. Where there is a line, it waits
    /// for a driver that listens: one that only looks which UART this is would lose it, and another console may want it.
    fn receive(&mut self, context: &mut Context<'_>) -> Result<(), InputError> {
        let room = self.uart.fifo_capacity();
        if room == 0 || (self.has_line && !self.listens) {
            return Ok(());
        }
        let bytes = context.take_console_input(room)?;
        // A UART in loopback mode is cut off from the line and takes nothing: those bytes are lost, as on a real line.
        let _taken = self.uart.enqueue_raw_bytes(&bytes);
        Ok(())
    }
}

impl SerialDevice {
    /// A driver that starts reads the data register to clear it, and has tried out before whether interrupts can be enabled:
    /// what has come by then is not what it wants to be rid of.
    fn read_register(&mut self, register: u8) -> u8 {
        let deaf = self.has_line && !self.listens;
        match register {
            DATA if deaf && self.uart.state().line_control & DIVISOR_LATCH == 0 => 0,
            LINE_STATUS if deaf => self.uart.read(register) & !DATA_READY,
            // What has come is told until all of it is read, and before all else: a driver reads no more than so much at a time.
            INTERRUPT_ID if self.listens && self.uart.state().line_status & DATA_READY != 0 => RECEIVED,
            _ => self.uart.read(register),
        }
    }

    fn note_listener(&mut self) {
        // Flat guests need not know, and write byte by byte.
        self.listens = self.has_line && self.uart.state().interrupt_enable & RECEIVE_INTERRUPT != 0;
    }
}

impl Device for SerialDevice {
    fn id(&self) -> DeviceId {
        ID
    }

    fn read(&mut self, offset: u64, data: &mut [u8], context: &mut Context<'_>) -> Result<(), InputError> {
        self.receive(context)?;
        if let ([byte], Ok(register)) = (data, u8::try_from(offset)) {
            *byte = self.read_register(register);
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], context: &mut Context<'_>) -> Result<(), InputError> {
        if let ([byte], Ok(register)) = (data, u8::try_from(offset)) {
            // The only failures are a full queue in loopback mode, where a real line drops the byte too.
            let _looped = self.uart.write(register, *byte);
            context.effects.console.append(self.uart.writer_mut());
            let listened = self.listens;
            self.note_listener();
            if self.listens && !listened && self.uart.state().line_status & DATA_READY != 0 {
                // A line goes up with what enables it; the UART tells only once of what it has told while nobody listened.
                self.raised.0.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Without a line nothing is taken before the driver asks: so it is in the histories of flat guests.
    fn poll(&mut self, context: &mut Context<'_>) -> Result<(), InputError> {
        if self.has_line { self.receive(context) } else { Ok(()) }
    }

    fn connect_interrupt(&mut self) {
        self.has_line = true;
    }

    fn interrupt(&mut self) -> Interrupt {
        match self.raised.0.swap(false, Ordering::Relaxed) {
            true => Interrupt::Edge,
            false => Interrupt::None,
        }
    }

    fn save(&self) -> Vec<u8> {
        let state = self.uart.state();
        encode(&SavedSerial {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        })
    }

    fn restore(&mut self, saved: &[u8]) -> Result<(), DeviceStateError> {
        let saved: SavedSerial = decode(ID, saved)?;
        let state = SerialState {
            baud_divisor_low: saved.baud_divisor_low,
            baud_divisor_high: saved.baud_divisor_high,
            interrupt_enable: saved.interrupt_enable,
            interrupt_identification: saved.interrupt_identification,
            line_control: saved.line_control,
            line_status: saved.line_status,
            modem_control: saved.modem_control,
            modem_status: saved.modem_status,
            scratch: saved.scratch,
            in_buffer: saved.in_buffer,
        };
        self.uart = Serial::from_state(&state, self.raised.clone(), NoEvents, Vec::new())
            .map_err(|_| DeviceStateError::Impossible { device: ID })?;
        self.note_listener();
        Ok(())
    }
}

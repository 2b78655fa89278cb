use crate::machine::device::{Bus, Context, DeviceId, Effects, Interrupt};
use crate::machine::inputs::{ExitNumber, LiveInputs};
use crate::machine::layout::{GuestMemory, anonymous_memory};
use crate::machine::linux::{VcpuCount, board};

struct Board {
    ports: Bus,
    mmio: Bus,
    memory: GuestMemory,
}

impl Board {
    fn new() -> Self {
        let (mut ports, mut mmio) = (Bus::default(), Bus::default());
        board::insert((&mut ports, &mut mmio), VcpuCount::MAX, 3 << 30).expect("nothing is in the way");
        Self { ports, mmio, memory: anonymous_memory(2 << 20).expect("memory") }
    }

    fn act<T>(&mut self, act: impl FnOnce(&mut Bus, &mut Bus, &mut Context<'_>) -> T) -> T {
        let (mut inputs, mut effects) = (LiveInputs::default(), Effects::default());
        let mut context =
            Context { exit: ExitNumber(1), inputs: &mut inputs, memory: &self.memory, effects: &mut effects };
        act(&mut self.ports, &mut self.mmio, &mut context)
    }

    fn out(&mut self, port: u64, data: &[u8]) {
        self.act(|ports, _, context| ports.write(port, data, context)).expect("served");
    }

    fn inb(&mut self, port: u64) -> u8 {
        let mut data = [0];
        self.act(|ports, _, context| ports.read(port, &mut data, context)).expect("served");
        data[0]
    }

    fn item(&mut self, item: u16) -> Vec<u8> {
        self.out(0x510, &item.to_le_bytes());
        (0..8).map(|_| self.inb(0x511)).collect()
    }

    fn up(&mut self) -> Vec<DeviceId> {
        let wants = self.ports.interrupts();
        wants.filter(|(_, wants)| *wants == Interrupt::Level(true)).map(|(device, _)| device).collect()
    }
}

#[test]
fn the_guest_is_told_what_its_machine_is_like() {
    let mut board = Board::new();
    assert_eq!(board.item(0), b"QEMU\0\0\0\0");
    assert_eq!(board.item(5), [4, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(board.item(3), (3u64 << 30).to_le_bytes());
    assert_eq!(board.item(0x1234), [0; 8], "what there is not");
}

#[test]
fn lines_words_and_memory_are_saved() {
    let mut board = Board::new();
    board.out(0xe0, &[1, 2, 3, 4]);
    board.out(0xe8, &[9]);
    board.out(0x2000 + 14, &[1]);
    board.out(0x510, &5u16.to_le_bytes());
    assert_eq!(board.inb(0x511), 4);
    board.act(|_, mmio, context| mmio.write(0xff00_ff00, &[7; 8], context)).expect("served");
    let saved: Vec<_> = board.ports.save().into_iter().chain(board.mmio.save()).collect();

    let mut other = Board::new();
    assert_eq!(other.up(), []);
    for (device, state) in &saved {
        assert!(
            other.ports.restore(*device, state).expect("its own")
                || other.mmio.restore(*device, state).expect("its own")
        );
    }
    assert_eq!(other.up(), [DeviceId(64 + 14)]);
    assert_eq!((other.inb(0xe2), other.inb(0xe8), other.inb(0x511)), (3, 9, 0), "the second byte of the item");
    let mut data = [0; 8];
    other.act(|_, mmio, context| mmio.read(0xff00_ff00, &mut data, context)).expect("served");
    assert_eq!(data, [7; 8]);
    other.out(0x2000 + 14, &[0]);
    assert_eq!(other.up(), []);
    assert!(other.ports.restore(DeviceId(10), &[0; 5]).is_err(), "too long");
    assert!(other.ports.restore(DeviceId(64), &[2]).is_err());
}

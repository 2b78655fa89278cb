//! Sans-I/O cores of primary, secondary and controller.

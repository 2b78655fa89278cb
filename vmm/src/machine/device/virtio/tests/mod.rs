mod disk;
mod hostile;
mod requests;
mod rig;
mod saved;

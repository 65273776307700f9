mod property;
mod start;
mod stop;
mod world;

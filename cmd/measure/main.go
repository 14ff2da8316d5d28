package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/workload"
)

// A config is what the flags say.
type config struct {
	keys     int
	value    int
	cache    float64 // MiB
	writers  int
	phases   string
	seed     uint64
	dir      string
	keep     bool
	zstd     bool
	cold     int
	sample   time.Duration
	idle     time.Duration
	duration time.Duration
	rounds   int
	target   int
	cycles   int
	settle   time.Duration
}

func parse() (config, string) {
	var c config
	flag.IntVar(&c.keys, "keys", 10_000_000, "number of `keys`")
	flag.IntVar(&c.value, "value", 100, "`bytes` of a value, at least 16")
	flag.Float64Var(&c.cache, "cache", 128, "Options.CacheSize in `MiB`")
	flag.IntVar(&c.target, "target", 0, "Options.SpaceTarget in `percent`, or 0")
	flag.IntVar(&c.writers, "writers", 2, "`goroutines` that write")
	flag.StringVar(&c.phases, "phases", "load,uniform,zipf,delete,refill", "phases, in order; idle is one too")
	flag.Uint64Var(&c.seed, "seed", 1, "decides the order of the writes")
	flag.StringVar(&c.dir, "dir", "", "`directory` for the store, made and removed again (default: a temporary one)")
	flag.BoolVar(&c.keep, "keep", false, "leave the store where it is")
	flag.BoolVar(&c.zstd, "zstd", false, "compress pages")
	flag.IntVar(&c.cold, "cold", 0, "`keys` that are read twice after each phase; 0: the 8 KiB pages of two caches, at most 30,000; less than 0: none")
	flag.DurationVar(&c.sample, "sample", 20*time.Millisecond, "time between two samples of space and memory")
	flag.DurationVar(&c.idle, "idle", 5*time.Second, "how long the phase idle lasts")
	flag.DurationVar(&c.duration, "time", 30*time.Second, "stall, scanhits: how long to measure; reopen: how long to write before a kill")
	flag.IntVar(&c.rounds, "rounds", 3, "reopen: how often")
	flag.IntVar(&c.cycles, "cycles", 24, "cycles: how often")
	flag.DurationVar(&c.settle, "settle", 3*time.Second, "cycles: how long the store must have been at rest before each look")
	flag.Parse()
	if c.cold == 0 {
		c.cold = min(int(2*c.cacheBytes()/(8<<10)), 30_000)
	}
	return c, flag.Arg(0)
}

func (c config) cacheBytes() int64 { return int64(c.cache * (1 << 20)) }

func (c config) options() *db.Options {
	o := &db.Options{CacheSize: c.cacheBytes(), SpaceTarget: c.target, Durability: db.DurabilityNone}
	if c.zstd {
		o.Compression = db.CompressionZstd
	}
	return o
}

func main() {
	c, mode := parse()
	if mode == "" {
		mode = "phases"
	}
	run, known := map[string]func(config) error{
		"phases":   phases,
		"reopen":   reopen,
		"cycles":   cycles,
		"stall":    stall,
		"scanhits": scanHits,
		"write":    writeForever,
	}[mode]
	if !known || c.keys < 2 || c.value < 16 || c.writers < 1 {
		fmt.Fprintf(os.Stderr, "measure: what is %q, or a flag out of range? See measure -h\n", strings.Join(os.Args[1:], " "))
		os.Exit(2)
	}
	if mode != "write" {
		fmt.Printf("%s: %d keys of %d+%d bytes (%.0f MB), cache %.4g MiB, %d writers, %s %s/%s, %d processors, load %s\n",
			mode, c.keys, workload.KeyBytes, c.value, float64(workload.NewRows(c.keys, c.value).All())/1e6, c.cache, c.writers,
			runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.GOMAXPROCS(0), load())
	}
	if err := c.inDir(run); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

// inDir calls run with a directory that it removes afterwards, unless it was
// there before or is to be kept.
func (c config) inDir(run func(config) error) error {
	made := c.dir == ""
	if made {
		var err error
		if c.dir, err = os.MkdirTemp("", "measure"); err != nil {
			return err
		}
	} else if _, err := os.Stat(c.dir); err != nil {
		made = true
	}
	err := run(c)
	if c.keep || !made {
		return err
	}
	if removed := os.RemoveAll(c.dir); err == nil {
		err = removed
	}
	return err
}

// load returns how busy the machine was of late, or "unknown".
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(b)); err == nil && len(fields) > 2 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

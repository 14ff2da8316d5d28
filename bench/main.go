package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
)

// flags are what the command line says.
type flags struct {
	keys    int
	value   int
	seconds float64
	rounds  int
	kinds   string
	only    string
	one     bool
	dir     string
	read    string
	write   string
	chart   string
	profile string
}

func main() {
	var f flags
	child := flag.String("child", "", "what one process is to run; for use by this program")
	evicted := flag.String("evict", "", "`directory` of which the system's cache is to be emptied; for use by this program")
	flag.IntVar(&f.keys, "keys", 1_000_000, "number of `keys`")
	flag.IntVar(&f.value, "value", 100, "`bytes` of a value, at least 16")
	flag.Float64Var(&f.seconds, "seconds", 2, "how long a workload runs")
	flag.IntVar(&f.rounds, "rounds", 3, "how often each is run")
	flag.StringVar(&f.kinds, "stores", "", "`names` of the stores, separated by commas; default: all that were built in")
	flag.StringVar(&f.only, "only", "", "regular `expression` for the names of workloads; default: all")
	flag.BoolVar(&f.one, "one", false, "run each workload with its largest number of goroutines only")
	flag.StringVar(&f.dir, "dir", "", "`directory` for the stores; default: a temporary one")
	flag.StringVar(&f.read, "read", "", "print the results in this `file` instead of running anything")
	flag.StringVar(&f.write, "write", "", "`file` for the results")
	flag.StringVar(&f.chart, "svg", "", "`file` for a chart")
	flag.StringVar(&f.profile, "profile", "", "`directory` for profiles of each run, which then is a little slower")
	flag.Parse()
	err := error(nil)
	switch {
	case *child != "":
		err = runChild(*child)
	case *evicted != "":
		err = runEvict(*evicted)
	default:
		err = f.main()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// runChild does what a spec says and prints the result.
func runChild(text string) error {
	var s spec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	x, err := perform(s)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(x)
}

func (f flags) main() error {
	var results []result
	if f.read != "" {
		b, err := os.ReadFile(f.read)
		if err == nil {
			err = json.Unmarshal(b, &results)
		}
		if err != nil {
			return err
		}
	} else {
		var err error
		if results, err = f.compare(); err != nil {
			return err
		}
	}
	if f.write != "" {
		b, err := json.MarshalIndent(results, "", " ")
		if err == nil {
			err = os.WriteFile(f.write, b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	table := summarize(results)
	table.print(os.Stdout)
	if f.chart != "" {
		return os.WriteFile(f.chart, table.svg(), 0o644)
	}
	return nil
}

// chosen returns the stores and workloads that the flags name.
func (f flags) chosen() ([]kind, []*load, error) {
	var stores []kind
	for name := range strings.SplitSeq(f.kinds, ",") {
		k, ok := kindOf(name)
		switch {
		case f.kinds == "":
			stores = kinds
		case !ok:
			return nil, nil, fmt.Errorf("this program was not built with a store %q", name)
		default:
			stores = append(stores, k)
		}
	}
	only, err := regexp.Compile(f.only)
	if err != nil {
		return nil, nil, err
	}
	var chosen []*load
	for _, l := range loads[:len(loads)-servants] {
		if only.MatchString(l.name) {
			chosen = append(chosen, l)
		}
	}
	return stores, chosen, nil
}

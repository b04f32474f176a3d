// Package platform is the daemon's line to PID 1 of the appliance.
//
// PID 1 listens on a unix stream socket that only the daemon's account may open. One
// connection carries one exchange, each direction one line of JSON:
//
//	→ {"verb":"state"}
//	← {"state":{…}}   or   {"error":"unknown verb \"x\""}
//
// PID 1 accepts a fixed list of verbs: "state" is the only one, and it changes nothing.
// A daemon that does not run on the appliance has no socket; its Client has an empty Path
// and State returns ErrNoPlatform.
//
// The State is made whole by PID 1, sentence and advice included, so that the console, the
// status page and a monitoring script say the same thing.
package platform

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Limits of one exchange.
const (
	maxRequest = 4 << 10         // bytes
	maxReply   = 1 << 20         // bytes; a hundred disks need a tenth of it
	exchange   = 5 * time.Second // longest exchange
	maxClients = 16              // served at once; more wait in the listen queue
)

// ErrNoPlatform says that the daemon was started without a line to PID 1.
var ErrNoPlatform = errors.New("no platform: not running on the appliance")

// Lock levels of the stick (appliance.md 6), strongest first.
const (
	LockHardware = "hardware" // the device itself refuses writes
	LockDetached = "detached" // the device was cut off after reading
	LockKernel   = "kernel"   // the kernel refuses writes
	LockNone     = "none"     // nothing prevents writes
)

// States of a disk (appliance.md 7.4).
const (
	DiskOK       = "ok"
	DiskReadOnly = "read-only" // mounted, writes refused
	DiskDamaged  = "damaged"   // check failed; mounted read-only when possible
	DiskForeign  = "foreign"   // carries another node's id; not mounted
	DiskMissing  = "missing"   // no disk for this mount point
	DiskDouble   = "double"    // two disks claim the mount point; neither is mounted
	DiskSpare    = "spare"     // not for content: unlabelled, blank and not allowed to be used
)

// Trust in the clock (appliance.md 8.2).
const (
	TimeVerified   = "verified"     // a majority of three or more time servers agreed
	TimeOneServer  = "one server"   // answers, but no majority could be formed
	TimeUnverified = "not verified" // hardware clock or the floor only
)

// States of the daemon as PID 1 sees it.
const (
	DaemonOff      = "off"      // not started; State.Sentence says why
	DaemonStarting = "starting" // runs, no health answer yet
	DaemonHealthy  = "healthy"
	DaemonSick     = "sick"    // runs, health answers stopped
	DaemonWaiting  = "waiting" // ended, waits before the next start
	DaemonStopped  = "stopped" // ended as told
)

// A State is everything PID 1 knows about the box.
type State struct {
	Sentence string   `json:"sentence"`       // the box in one sentence
	Alarm    bool     `json:"alarm"`          // a person has to act
	Todo     []string `json:"todo,omitempty"` // what to do, one sentence each, most urgent first

	Host     string        `json:"host"`
	Version  string        `json:"version"`   // release of the image
	Image    string        `json:"image"`     // image id of the kernel command line
	Node     string        `json:"node"`      // node id, written to every disk of the box
	Seal     string        `json:"seal"`      // seal code "AAAA-BBBB-CCCC-DDDD"; "" when not configured
	Settings string        `json:"settings"`  // "sealed", "one slot bad", "not configured", "damaged", …
	Lock     string        `json:"lock"`      // Lock…
	LockNote string        `json:"lock_note"` // how the lock was verified
	UI       string        `json:"ui"`        // address of the pages, "http://192.0.2.7:8081/"
	Booted   time.Time     `json:"booted"`    // start of PID 1 by the present clock
	Uptime   time.Duration `json:"uptime"`    // nanoseconds

	Network Network `json:"network"`
	Time    Time    `json:"time"`
	Disks   []Disk  `json:"disks"`
	Daemon  Daemon  `json:"daemon"`
	Steps   []Step  `json:"steps"` // the boot so far
}

// A Network is the state of the primary interface.
type Network struct {
	State     string   `json:"state"` // "up", "waiting", "down"
	Kind      string   `json:"kind"`  // "dhcp" or "static"
	Interface string   `json:"interface"`
	Addresses []string `json:"addresses,omitempty"` // of all interfaces but loopback, "192.0.2.7/24"
	Gateway   string   `json:"gateway"`
	DNS       []string `json:"dns,omitempty"`
	Note      string   `json:"note"`
}

// A Time is the state of the clock.
type Time struct {
	State  string        `json:"state"`  // Time…
	Source string        `json:"source"` // "hardware clock", "3 time servers", …
	Offset time.Duration `json:"offset"` // last correction, nanoseconds
	Note   string        `json:"note"`
}

// A Disk is a mount point for content, or a disk that is none.
type Disk struct {
	Mount  string `json:"mount"` // "/cache0"; "" for a spare or foreign disk without one
	State  string `json:"state"` // Disk…
	Device string `json:"device"`
	Serial string `json:"serial"`
	UUID   string `json:"uuid"`
	Size   uint64 `json:"size"`  // bytes of the device
	Total  uint64 `json:"total"` // bytes of the file system
	Free   uint64 `json:"free"`  // bytes free for the daemon
	Note   string `json:"note"`
}

// Content is the content root on the disk, "/cache0/gamma"; "" without a mount point.
func (d Disk) Content() string {
	if d.Mount == "" {
		return ""
	}
	return d.Mount + "/gamma"
}

// A Daemon is the state of the node daemon.
type Daemon struct {
	State    string    `json:"state"` // Daemon…
	PID      int       `json:"pid"`
	Starts   int       `json:"starts"` // since boot
	Started  time.Time `json:"started"`
	LastExit string    `json:"last_exit"` // "" when it never ended
}

// A Step is one step of the boot.
type Step struct {
	Number int           `json:"number"`
	Name   string        `json:"name"`
	Result string        `json:"result"` // "ok", "note", "FAILED"
	Took   time.Duration `json:"took"`   // nanoseconds
	Note   string        `json:"note"`
}

type request struct {
	Verb string `json:"verb"`
}

type reply struct {
	State *State `json:"state,omitempty"`
	Error string `json:"error,omitempty"`
}

// A Client asks PID 1.
type Client struct {
	Path string // of the socket; "" off the appliance
}

// State asks for the state of the box; it waits at most 5 s.
func (c Client) State(ctx context.Context) (State, error) {
	if c.Path == "" {
		return State{}, ErrNoPlatform
	}
	ctx, cancel := context.WithTimeout(ctx, exchange)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.Path)
	if err != nil {
		return State{}, fmt.Errorf("ask platform: %w", err)
	}
	defer conn.Close()
	if t, ok := ctx.Deadline(); ok {
		conn.SetDeadline(t)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := json.NewEncoder(conn).Encode(request{Verb: "state"}); err != nil {
		return State{}, fmt.Errorf("ask platform: %w", err)
	}
	var r reply
	if err := json.NewDecoder(io.LimitReader(conn, maxReply)).Decode(&r); err != nil {
		return State{}, fmt.Errorf("ask platform: read answer: %w", err)
	}
	switch {
	case r.Error != "":
		return State{}, fmt.Errorf("ask platform: %s", r.Error)
	case r.State == nil:
		return State{}, errors.New("ask platform: answer without a state")
	}
	return *r.State, nil
}

// Serve answers on l until ctx ends, then closes l and waits for the exchanges that run.
// state is called from the goroutine of each exchange.
func Serve(ctx context.Context, l net.Listener, state func() State) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var g sync.WaitGroup
	defer g.Wait()
	slots := make(chan struct{}, maxClients)
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				continue
			}
			return fmt.Errorf("platform socket: %w", err)
		}
		slots <- struct{}{}
		g.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(exchange))
			answer(conn, state)
		})
	}
}

// answer reads one request line and writes one reply line. A client that goes away is its
// own loss, so write errors are dropped.
func answer(conn io.ReadWriter, state func() State) {
	line, err := bufio.NewReaderSize(io.LimitReader(conn, maxRequest), maxRequest).ReadSlice('\n')
	if err != nil {
		return
	}
	var q request
	var r reply
	if err := json.Unmarshal(line, &q); err != nil {
		r.Error = "request is not JSON"
	} else if q.Verb == "state" {
		s := state()
		r.State = &s
	} else {
		r.Error = fmt.Sprintf("unknown verb %q", q.Verb)
	}
	b, err := json.Marshal(r)
	if err != nil {
		b = []byte(`{"error":"state cannot be written"}`)
	}
	conn.Write(append(b, '\n'))
}

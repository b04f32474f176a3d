package world

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Plan numbers the nodes of a network, from 1, and the ports that each has on this machine.
type Plan struct {
	Group         string
	User          string // administrator of every node
	Password      string
	LCAP          int // port of node 1; the others follow
	UI            int
	Audit         int
	PublisherPort int
	OfficePort    int // property file and keystore
	RegistryPort  int
}

// Identity of node n among its peers.
func (p Plan) Identity(n int) string { return fmt.Sprintf("TCP:[%s]:%d", Address, p.LCAP+n-1) }

// PropertyURL is where the nodes find their configuration.
func (p Plan) PropertyURL() string {
	return fmt.Sprintf("http://%s:%d/lockss.xml", Address, p.OfficePort)
}

// Member is one node as its operator sees it: a name, and the REST API behind its pages.
type Member struct {
	N         int
	Name      string
	UI        string // base URL
	AuditPort int    // of its audit proxy, on 127.0.0.1
	user      string
	password  string
}

// Member gives node n of the plan.
func (p Plan) Member(n int) Member {
	return Member{N: n, Name: fmt.Sprintf("node %d", n), UI: fmt.Sprintf("http://127.0.0.1:%d", p.UI+n-1),
		AuditPort: p.Audit + n - 1, user: p.User, password: p.Password}
}

// Call makes one request of the REST API; a nil answer is not read.
func (m Member) Call(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var payload io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, m.UI+path, payload)
	if err != nil {
		return err
	}
	req.SetBasicAuth(m.user, m.password)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Armarium-Request", "1")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s %s answered %s: %s", m.Name, method, path, resp.Status, strings.TrimSpace(string(b)))
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(b, answer)
}

// Row is one row of a status table, by column name.
type Row map[string]any

// Text gives a cell as text.
func (r Row) Text(column string) string {
	if v, ok := r[column]; ok && v != nil {
		return fmt.Sprint(v)
	}
	return ""
}

// Number gives a cell as a number, 0 if it is none.
func (r Row) Number(column string) float64 {
	f, _ := r[column].(float64)
	return f
}

// Table reads a status table, such as "crawls" or "polls?au=…".
func (m Member) Table(ctx context.Context, path string) ([]Row, error) {
	var t struct{ Rows []Row }
	err := m.Call(ctx, http.MethodGet, "/api/v1/"+path, nil, &t)
	return t.Rows, err
}

// Healthy waits until the node says that it is well.
func (m Member) Healthy(ctx context.Context) error {
	for {
		var h struct{ State, Reason string }
		err := m.Call(ctx, http.MethodGet, "/api/v1/health", nil, &h)
		if err == nil && h.State == "ok" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not healthy: %s %s %v", m.Name, h.State, h.Reason, err)
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Proxied fetches a URL through the node's audit proxy.
func (m Member) Proxied(ctx context.Context, rawURL string) (*http.Response, []byte, error) {
	proxy := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", m.AuditPort)}
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), DisableKeepAlives: true}, Timeout: time.Minute}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp, b, err
}

// Process is a member that runs as an ordinary process on this machine.
type Process struct {
	Member
	Disk string // its content root
	cmd  *exec.Cmd
	done chan error
}

// StartProcess writes the platform parameters of node n below dir and starts the daemon.
// Its log goes to dir/daemon.log, and line by line to each.
func (p Plan) StartProcess(n int, daemon, dir string, each func(line string)) (*Process, error) {
	x := &Process{Member: p.Member(n), Disk: filepath.Join(dir, "gamma"), done: make(chan error, 1)}
	if err := os.MkdirAll(x.Disk, 0o755); err != nil {
		return nil, err
	}
	local := filepath.Join(dir, "local.txt")
	text := fmt.Sprintf(`# Platform parameters of %s
org.lockss.platform.localIPAddress=%s
org.lockss.platform.v3.identity=%s
org.lockss.platform.diskSpacePaths=%s
org.lockss.platform.version=Appliance-1
org.lockss.platform.fqdn=node%d.demo.example
org.lockss.platform.accesssubnet=127.0.0.0/8
org.lockss.platform.ui.username=%s
org.lockss.platform.ui.password=SHA-256:%x
org.lockss.ui.port=%d
org.lockss.proxy.audit.port=%d
`, x.Name, Address, strings.ReplaceAll(p.Identity(n), ":", `\:`), x.Disk, n, p.User, sha256.Sum256([]byte(p.Password)), p.UI+n-1, p.Audit+n-1)
	if err := os.WriteFile(local, []byte(text), 0o600); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	x.cmd = exec.Command(daemon, "-g", p.Group, "-p", p.PropertyURL(), "-p", local)
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	x.cmd.Stderr, x.cmd.Stdout = w, w
	err = x.cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	go func() {
		defer logFile.Close()
		sc := bufio.NewScanner(r)
		sc.Buffer(make([]byte, 64<<10), 1<<20)
		for sc.Scan() {
			fmt.Fprintln(logFile, sc.Text())
			if each != nil {
				each(sc.Text())
			}
		}
		x.done <- x.cmd.Wait()
	}()
	return x, nil
}

// Kill ends the daemon as a power cut would, and waits.
func (x *Process) Kill() {
	if x.cmd != nil {
		x.cmd.Process.Kill()
		<-x.done
		x.cmd = nil
	}
}

// Stop ends the daemon in order and waits.
func (x *Process) Stop() error {
	if x.cmd == nil {
		return nil
	}
	x.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-x.done:
		x.cmd = nil
		return err
	case <-time.After(20 * time.Second):
		x.Kill()
		return fmt.Errorf("%s did not stop within 20 s of SIGTERM and was killed", x.Name)
	}
}

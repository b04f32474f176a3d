// Package world is what stands outside a box in the demonstration and the tests: a
// publisher, the office of a network (property server and plugin registry), further nodes as
// processes, and the address at which the box and the host both find them.
//
// Everything listens on loopback. A box in QEMU's user-mode network reaches the host's
// loopback at 10.0.2.2; the same address is set on the host's own loopback interface
// (Address), so that a URL and a peer identity are equal inside and outside.
package world

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Publication is a tree of files to publish.
type Publication struct {
	Tree    string   // directory with the HTML documentation
	Section string   // its sub-tree that is the archival unit
	Assets  []string // directories beside Section that its pages use: style sheets, images
}

// Size counts the files of the publication and their bytes.
func (p Publication) Size() (files int, bytes int64, err error) {
	for _, dir := range append([]string{p.Section}, p.Assets...) {
		root, err := filepath.EvalSymlinks(filepath.Join(p.Tree, dir))
		if err != nil {
			return 0, 0, err
		}
		err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			fi, err := os.Stat(path)
			if err != nil {
				return err
			}
			files++
			bytes += fi.Size()
			return nil
		})
		if err != nil {
			return 0, 0, err
		}
	}
	return files, bytes, nil
}

// Publisher is an nginx that serves a publication below /docs/ with a LOCKSS permission
// page in front.
type Publisher struct {
	Port int
	cmd  *exec.Cmd
	done chan error
	log  string
}

// Permission is the statement that lets a node collect the publication.
const Permission = "LOCKSS system has permission to collect, preserve, and serve this Archival Unit"

// StartPublisher puts the publication together below dir and serves it on the loopback port
// until Stop. It returns when the first page is answered.
func StartPublisher(ctx context.Context, dir string, port int, pub Publication) (*Publisher, error) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		if nginx, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return nil, fmt.Errorf("nginx is not installed: run make setup")
		}
	}
	www := filepath.Join(dir, "www", "docs")
	if err := os.MkdirAll(www, 0o755); err != nil {
		return nil, err
	}
	for _, name := range append([]string{pub.Section}, pub.Assets...) {
		target := filepath.Join(pub.Tree, name)
		if _, err := os.Stat(target); err != nil {
			return nil, fmt.Errorf("publication: %w", err)
		}
		link := filepath.Join(www, name)
		if err := os.Symlink(target, link); err != nil && !os.IsExist(err) {
			return nil, err
		}
	}
	page := fmt.Sprintf("<html><head><title>Permission</title></head><body><p>%s.</p><p><a href=\"%s/index.html\">%s</a></p></body></html>\n",
		Permission, pub.Section, pub.Section)
	if err := os.WriteFile(filepath.Join(www, "lockss-permission.html"), []byte(page), 0o644); err != nil {
		return nil, err
	}
	p := &Publisher{Port: port, done: make(chan error, 1), log: filepath.Join(dir, "nginx-error.log")}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;\n"
	}
	tmp := ""
	for _, k := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		tmp += fmt.Sprintf("%s_temp_path %s;\n", k, filepath.Join(dir, "tmp-"+k))
	}
	conf := fmt.Sprintf(`%sdaemon off; master_process on; worker_processes 1; pid %s; error_log %s warn;
events { worker_connections 256; }
http {
  %s
  types { text/html html; text/css css; text/javascript js; image/svg+xml svg; image/png png; image/gif gif; image/jpeg jpg; text/plain txt; image/x-icon ico; }
  default_type application/octet-stream;
  access_log %s; etag on; sendfile on;
  server { listen 127.0.0.1:%d; listen %s:%d; root %s; }
}
`, user, filepath.Join(dir, "nginx.pid"), p.log, tmp, filepath.Join(dir, "nginx-access.log"), port, Address, port, filepath.Join(dir, "www"))
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(nginx, "-c", path, "-p", dir, "-e", p.log)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := os.Create(filepath.Join(dir, "nginx.out"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	url := fmt.Sprintf("http://%s/docs/lockss-permission.html", net.JoinHostPort(Address, fmt.Sprint(port)))
	for {
		if resp, err := http.Get(url); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				p.Stop()
				return nil, fmt.Errorf("publisher: %s answered %s", url, resp.Status)
			}
			return p, nil
		}
		select {
		case err := <-p.done:
			text, _ := os.ReadFile(filepath.Join(dir, "nginx.out"))
			return nil, fmt.Errorf("nginx ended: %v: %s", err, strings.TrimSpace(string(text)))
		case <-ctx.Done():
			p.Stop()
			return nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Stop ends the publisher and waits for it. A second Stop does nothing.
func (p *Publisher) Stop() {
	if p.cmd == nil {
		return
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	p.cmd = nil
}

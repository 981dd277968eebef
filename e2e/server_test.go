package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
)

// Name and password at every server.
const (
	user     = "ftp"
	password = "e2e@example"
)

// serverKind is an FTP server: how to start it on a port. Lax: it connects to any address that a client names.
type serverKind struct {
	name  string
	start func(s *site, port uint16, lax bool) *process
}

var serverKinds = []serverKind{{"vsftpd", vsftpd}, {"proftpd", proftpd}, {"pure-ftpd", pureFTPd}}

// serve starts one and waits until it answers.
func (s *site) serve(kind serverKind, port uint16, lax bool) *process {
	s.t.Helper()
	p := kind.start(s, port, lax)
	for _, f := range families {
		p.until("listens on "+string(f), func() (up bool) {
			s.server.Do(func() {
				c, err := net.DialTimeout("tcp", netip.AddrPortFrom(s.serverAddr(f), port).String(), patience)
				if up = err == nil; up {
					c.Close()
				}
			})
			return up
		})
	}
	return p
}

func yes(b bool) string {
	if b {
		return "YES"
	}
	return "NO"
}

// vsftpd changes to the home of the user that it becomes before it changes to what it serves: daemon has one on each Debian.
func vsftpd(s *site, port uint16, lax bool) *process { return vsftpdWith(s, port, lax, "") }

// vsftpdWith has more lines in its configuration.
func vsftpdWith(s *site, port uint16, lax bool, more string) *process {
	empty := filepath.Join(s.folder, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		s.t.Fatal(err)
	}
	conf := filepath.Join(s.folder, "vsftpd.conf")
	s.write(conf, fmt.Sprintf(`listen_ipv6=YES
listen_port=%d
background=NO
anonymous_enable=YES
local_enable=NO
write_enable=YES
anon_upload_enable=YES
anon_root=%s
anon_umask=022
anon_max_rate=0
ftp_username=daemon
nopriv_user=nobody
secure_chroot_dir=%s
seccomp_sandbox=NO
isolate_network=NO
port_promiscuous=%s
%s`, port, shared.root, empty, yes(lax), more))
	return startFamily(s.t, s.server, shared.servers+"/usr/sbin/vsftpd", conf)
}

func proftpd(s *site, port uint16, lax bool) *process {
	foreign := "off"
	if lax {
		foreign = "on"
	}
	conf := filepath.Join(s.folder, "proftpd.conf")
	s.write(conf, fmt.Sprintf(`ServerName e2e
ServerType standalone
DefaultAddress 0.0.0.0 ::
DefaultServer on
Port %d
UseIPv6 on
UseReverseDNS off
User nobody
Group nogroup
PidFile %[2]s/proftpd.pid
ScoreboardFile %[2]s/scoreboard
DelayTable none
SystemLog %[2]s/proftpd.log
TransferLog none
WtmpLog off
AuthOrder mod_auth_unix.c
TimesGMT on
AllowForeignAddress %s
<Anonymous %s>
	User nobody
	Group nogroup
	UserAlias ftp nobody
	RequireValidShell off
	AllowOverwrite on
</Anonymous>
`, port, s.folder, foreign, shared.root))
	if err := os.Chmod(s.folder, 0o755); err != nil {
		s.t.Fatal(err)
	}
	p := startFamily(s.t, s.server, shared.servers+"/usr/sbin/proftpd", "--nodaemon", "--config", conf)
	s.t.Cleanup(func() {
		if s.t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.folder, "proftpd.log"))
			s.t.Logf("proftpd's log:\n%s", log)
		}
	})
	return p
}

func pureFTPd(s *site, port uint16, lax bool) *process {
	if lax {
		s.t.Fatal("pure-ftpd connects to nobody but the client")
	}
	users, db := filepath.Join(s.folder, "passwd"), filepath.Join(s.folder, "users.pdb")
	// The password as crypt(3) has it, by MD5: what pure-pw makes of it takes seconds at each login.
	const hash = "$1$e2e$NwMedXoXVlmnVOEl89PzA/"
	s.write(users, fmt.Sprintf("%s:%s:65534:65534::%s/./::::::::::::\n", user, hash, shared.root)) // nobody, nogroup
	if out, err := exec.Command(shared.servers+"/usr/bin/pure-pw", "mkdb", db, "-f", users).CombinedOutput(); err != nil {
		s.t.Fatalf("pure-pw: %v\n%s", err, out)
	}
	return startFamily(s.t, s.server, shared.servers+"/usr/sbin/pure-ftpd", "-S", fmt.Sprint(port), "-l", "puredb:"+db,
		"-E", "-A", "-H", "-u", "1", "-L", "20000:5", "-c", "50", "-C", "50", "-g", filepath.Join(s.folder, "pure-ftpd.pid"))
}

"""A machine's files in memory, and values that a listener file can hold."""

import ipaddress

from hypothesis import strategies as st

from tedge_agentd.core import conf_lines, model, mosquitto_conf

MAIN = "/etc/mosquitto/mosquitto.conf"
TEDGE = "/etc/tedge/mosquitto-conf"
OURS = f"{TEDGE}/tedge-mosquitto.conf"
CONF_D = "/etc/mosquitto/conf.d"
# Debian's file with the line that thin-edge's package puts before the first include_dir.
DEBIAN = f"""persistence true
persistence_location /var/lib/mosquitto/
log_dest file /var/log/mosquitto/mosquitto.log
include_dir {TEDGE}
include_dir {CONF_D}
"""


class Files:
    """Reads from a dictionary; the directories are those that files are in, and those named besides."""

    def __init__(self, files: dict[str, bytes | str], *dirs: str) -> None:
        self.files = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
        self.dirs = {*dirs, *(path.rpartition("/")[0] for path in files)}

    def read(self, path: str) -> bytes:
        if path not in self.files:
            raise mosquitto_conf.ConfReadError("No such file or directory", missing=True)
        return self.files[path]

    def list_dir(self, path: str) -> tuple[str, ...]:
        if path not in self.dirs:
            raise mosquitto_conf.ConfReadError("No such file or directory", missing=True)
        return tuple(name.rpartition("/")[2] for name in self.files if name.rpartition("/")[0] == path)


def tree(main: bytes | str = DEBIAN, **files: bytes | str) -> mosquitto_conf.BrokerConf:
    """A configuration: `tedge__x` is x.conf in thin-edge's directory, `conf_d__x` the same in conf.d."""
    dirs = {"tedge": TEDGE, "conf_d": CONF_D}
    named: dict[str, bytes | str] = {MAIN: main}
    for key, data in files.items():
        place, _, name = key.partition("__")
        named[f"{dirs[place]}/{name.replace('_', '-')}.conf"] = data
    return mosquitto_conf.read_tree(MAIN, Files(named, TEDGE, CONF_D))


# Values -----------------------------------------------------------------------------------------------------

_text = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
paths = _text.map(lambda text: f"/{text}").filter(
    lambda path: path == path.strip() and conf_lines.is_broker_text(path)
)
ports = st.integers(1, 65535)
addresses = st.none() | st.ip_addresses()
interfaces = st.from_regex(r"[A-Za-z0-9._:@-]{1,15}", fullmatch=True)
tls = st.builds(
    model.Tls,
    certfile=paths,
    keyfile=paths,
    client_ca=st.none() | st.builds(model.ClientCa, path=paths, is_dir=st.booleans()),
)
listeners = st.builds(
    model.Listener,
    port=ports,
    address=addresses,
    interface=st.none() | interfaces,
    socket_domain=st.sampled_from([None, "ipv4", "ipv6"]),
    tls=st.none() | tls,
)
roles = st.sampled_from(["mqtt.external.cert_file", "mqtt.external.key_file", "client CA"])
listener_files = st.builds(
    model.ListenerFile,
    internal=st.none() | listeners,
    external=st.none() | listeners,
    sources=st.lists(st.tuples(roles, paths), max_size=3).map(tuple),
)

INTERNAL = model.Listener(port=1883, address=ipaddress.IPv4Address("127.0.0.1"))
SERVER = model.Tls(certfile="/staged/server.pem", keyfile="/staged/server.pem")
MUTUAL = model.Tls(
    certfile="/staged/server.pem",
    keyfile="/staged/server.pem",
    client_ca=model.ClientCa(path="/staged/client-ca.pem", is_dir=False),
)

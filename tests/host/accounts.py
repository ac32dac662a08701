"""Three users to play with. Numbers that no package uses: nothing on the machine belongs to them."""

from tedge_agentd.host import users

BROKER = users.Account(name="mosquitto", uid=64101, gid=64101, groups=frozenset({64101}))
CLIENT = users.Account(name="tedge", uid=64102, gid=64102, groups=frozenset({64102}))
STRANGER = users.Account(name="stranger", uid=64103, gid=64103, groups=frozenset({64103}))

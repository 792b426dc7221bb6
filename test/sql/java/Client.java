import java.sql.*;
import java.util.Properties;

/**
 * What ClickHouse's JDBC driver, unmodified, sees of the SQL interface; DBeaver and other tools use it.
 * Arguments: address, password. Every observation is one line of standard output: its name, a colon, its value.
 */
public class Client {
    static void say(String name, Object value) {
        System.out.println(name + ":" + value);
    }

    static int count(ResultSet rows) throws SQLException {
        int n = 0;
        while (rows.next()) n++;
        rows.close();
        return n;
    }

    interface Call {
        void run() throws SQLException;
    }

    static void refused(String name, Call call) {
        try {
            call.run();
            say(name, "was answered");
        } catch (SQLException e) {
            say(name, e.getErrorCode());
        }
    }

    public static void main(String[] args) throws Exception {
        for (String compress : new String[] {"true", "false"}) {
            Properties properties = new Properties();
            properties.put("user", "weir_reader");
            properties.put("password", args[1]);
            properties.put("compress", compress);
            try (Connection c = DriverManager.getConnection("jdbc:clickhouse://" + args[0] + "/weir", properties)) {
                DatabaseMetaData about = c.getMetaData();
                say("version", about.getDatabaseMajorVersion());
                say("valid", c.isValid(10));
                say("columns", count(about.getColumns(null, "weir", "usage_events", "%")));
                say("tables", count(about.getTables(null, "weir", "margin_by_customer", null)));
                try (PreparedStatement s = c.prepareStatement(
                        "SELECT count(), sum(cost), sum(price), max(event_time) FROM usage_events WHERE customer <> ?")) {
                    s.setString(1, "o'neil");
                    ResultSet r = s.executeQuery();
                    r.next();
                    say("sums", r.getLong(1) + " " + r.getBigDecimal(2) + " " + r.getBigDecimal(3) + " " + r.getObject(4, java.time.OffsetDateTime.class).toInstant());
                }
                Statement s = c.createStatement();
                say("rows", count(s.executeQuery("SELECT number, [number], map('a', number) FROM numbers(200000)")));
                say("empty", count(s.executeQuery("SELECT * FROM usage_events WHERE 0")));
                s.setMaxRows(7);
                say("most", count(s.executeQuery("SELECT number FROM numbers(100)")));
                refused("unknown", () -> s.executeQuery("SELECT nosuch"));
                refused("write", () -> s.executeUpdate("TRUNCATE TABLE usage_events"));
            }
        }
    }
}
